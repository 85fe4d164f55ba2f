"""What the trainer logs and evaluates, and that nothing else waits for the device."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from toy_training import (
    Recorder,
    Toy,
    ToyData,
    assert_equal_runs,
    lines,
    make,
    newest,
)

from dfm_core.loss_report import LossReport
from dfm_core.training.metrics_log import read_metrics
from dfm_core.training.trainer import TrainingResult


def test_metrics(tmp_path: Path) -> None:
    trainer = make(tmp_path, log_every=5, clip_norm=None)
    result = trainer.train()
    first, second = read_metrics(trainer.run)
    assert list(first) == [
        "step", "loss", "parts", "loss_by_t", "learning_rate", "grad_norm", "grad_norms", "images_per_second",
        "utilisation", "data_wait", "peak_memory", "seconds",
    ]  # fmt: skip
    assert (first["step"], second["step"]) == (5, 10)
    assert first["loss"] == pytest.approx((first["parts"]["stage_1"] + first["parts"]["stage_2"]) / 2)
    assert 0 < first["seconds"] <= second["seconds"]
    assert second["images_per_second"] > 0
    assert second["grad_norm"] > 0
    assert result == TrainingResult(10, False, result.last_loss, tmp_path / "checkpoints/step_00000010")
    reporter = trainer.reporter
    assert isinstance(reporter, Recorder)
    assert [report.step for report in reporter.reports] == [1, 5, 10]
    assert reporter.steps == list(range(1, 11))
    assert reporter.closed


def test_a_part_that_does_not_occur_is_left_out(tmp_path: Path) -> None:
    trainer = make(tmp_path, data=ToyData(batch_size=1), max_steps=1, log_every=1)
    trainer.train()
    assert list(read_metrics(trainer.run)[0]["parts"]) == ["stage_1"]


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make(tmp_path, tensorboard=True, validate=lambda: {"loss": 0.25}, validation_every=10)
    trainer.train()
    events = EventAccumulator(str(trainer.run.tensorboard))
    events.Reload()
    assert {"loss", "parts/stage_1", "learning_rate", "validation/loss"} <= set(events.Tags()["scalars"])
    logged = {event.step: event.value for event in events.Scalars("loss")}
    assert logged == pytest.approx({line["step"]: line["loss"] for line in lines(tmp_path) if "loss" in line})


def test_the_callers_random_state_is_untouched(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    torch.manual_seed(5)
    before, python = torch.get_rng_state(), random.getstate()
    trainer.train()
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python


class CountReads(TorchDispatchMode):
    """Counts what would wait for a device: values that become Python numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return function(*args, **(kwargs or {}))


def test_nothing_between_logging_steps_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    calls: list[int] = []
    trainer = make(tmp_path, log_every=100, ema_decay=0.99, accumulation=2)
    step = trainer._learner.step

    def counted(index: int, batch: dict[str, Tensor], measure: bool) -> tuple[LossReport, Tensor]:
        with CountReads() as counter:
            result = step(index, batch, measure)
        reads.append(counter.reads)
        return result

    def read() -> None:
        calls.append(1)
        original()

    original = trainer._log._window.read
    monkeypatch.setattr(trainer._learner, "step", counted)
    monkeypatch.setattr(trainer._log._window, "read", read)
    trainer.train()
    assert reads == [0] * 10
    assert len(calls) == 3  # after the first step, before the last checkpoint, for the last line


def test_evaluations_see_averaged_weights_in_eval_mode(tmp_path: Path) -> None:
    module = Toy()
    seen: list[tuple[int, bool, bool, Tensor]] = []

    def look(step: int) -> None:
        torch.randn(step)  # disturbs the global random state, which must not matter
        seen.append((step, module.training, torch.is_grad_enabled(), module.last.weight.detach().clone()))

    def validate() -> dict[str, float]:
        look(0)
        return {"loss": 1.5, "other": math.nan}

    trainer = make(tmp_path / "a", module, on_samples=look, sample_every=5, validate=validate, validation_every=5)
    module.eval()
    trainer.train()
    assert not module.training  # as the caller left it
    assert [(step, training, grad) for step, training, grad, _ in seen] == [
        (0, False, False), (5, False, False), (0, False, False), (10, False, False),
    ]  # fmt: skip
    assert torch.equal(seen[-1][3], newest(tmp_path / "a").tensors("ema")["last.weight"])
    assert not torch.equal(seen[-1][3], module.last.weight)
    assert [line for line in lines(tmp_path / "a") if "validation" in line] == [
        {"step": step, "validation": {"loss": 1.5, "other": None}} for step in (5, 10)
    ]
    make(tmp_path / "b").train()
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
