"""Precision, compilation, deterministic kernels, and the claims that need a CUDA device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_training import (
    Toy,
    assert_equal_runs,
    interrupted_trainer,
    make,
    newest,
)

from dfm_core.loss_report import LossReport


@pytest.mark.parametrize(("precision", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision(tmp_path: Path, precision: str, expected: torch.dtype) -> None:
    module = Toy()
    seen: list[torch.dtype] = []
    module.last.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    make(tmp_path, module, precision=precision, max_steps=2).train()
    assert set(seen) == {expected}
    assert all(value.dtype == torch.float32 for value in newest(tmp_path).tensors("optimizer").values())


def test_deterministic_kernels_only_inside(tmp_path: Path) -> None:
    seen: list[bool] = []
    module = Toy()
    module.register_forward_hook(lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))
    make(tmp_path, module, deterministic=True, max_steps=1).train()
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_compilation_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    trainer = make(tmp_path, compile=True, max_steps=1)
    trainer.train()
    assert compiled == [trainer.module]


@pytest.mark.slow
def test_compiled_training_is_close_to_eager(tmp_path: Path) -> None:
    samples: list[int] = []
    same: dict[str, Any] = {"max_steps": 4, "epsilon": 1e-3}
    modules = [Toy(dropout=0.0, norm=False) for _ in range(2)]
    make(tmp_path / "eager", modules[0], **same).train()
    make(tmp_path / "compiled", modules[1], compile=True, on_samples=samples.append, sample_every=2, **same).train()
    eager, compiled = (newest(tmp_path / name).tensors("weights") for name in ("eager", "compiled"))
    assert samples == [2, 4]
    assert eager.keys() == compiled.keys()
    for key in eager:
        torch.testing.assert_close(eager[key], compiled[key], rtol=1e-3, atol=1e-4)


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@cuda
def test_on_cuda_nothing_waits_between_logging_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tmp_path, Toy(), device=torch.device("cuda"), log_every=100)
    step = trainer._learner.step

    def strict(index: int, batch: dict[str, Tensor], measure: bool) -> tuple[LossReport, Tensor]:
        torch.cuda.set_sync_debug_mode("error" if index > 1 else "default")
        try:
            return step(index, batch, measure)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(trainer._learner, "step", strict)
    assert trainer.train().step == 10


@cuda
def test_on_cuda_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"device": torch.device("cuda"), "deterministic": True, "accumulation": 2}
    before = torch.cuda.get_rng_state()
    make(tmp_path / "whole", **changes).train()
    interrupted_trainer(tmp_path / "parts", 5, **changes).train()
    make(tmp_path / "parts", **changes).train(newest(tmp_path / "parts"))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert torch.equal(torch.cuda.get_rng_state(), before)
