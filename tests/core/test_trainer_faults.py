"""Bad losses, full disks, data that ends, checkpoints that do not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_training import (
    Toy,
    ToyData,
    ToyObjective,
    interrupted_trainer,
    lines,
    make,
    newest,
)

from dfm_core.errors import CheckpointError, DataError, NonFiniteLossError
from dfm_core.loss_report import LossReport
from dfm_core.randomness import BatchRandomness
from dfm_core.training.checkpoint import list_checkpoints
from dfm_core.training.metrics_log import MetricsLog


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, accumulation: int
) -> None:
    module = Toy()
    objective = ToyObjective(module, break_at=lambda step: math.nan if step == 6 else 0.0)
    data = ToyData()
    trainer = make(
        tmp_path, module, objective=objective, data=data, checkpoint_every=2, log_every=4, accumulation=accumulation
    )
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "the loss of stage_2 is nan at step 7" in message
    assert "steps from 5 on" in message
    assert f"the last good checkpoint is {tmp_path / 'checkpoints/step_00000006'}" in message
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000004", "step_00000006"]
    assert [line["step"] for line in lines(tmp_path)] == [4]
    assert all(value.isfinite().all() for value in newest(tmp_path).tensors("weights").values())
    assert data.closed
    assert trainer.reporter.closed  # type: ignore[attr-defined]


def test_it_is_found_before_a_checkpoint_too(tmp_path: Path) -> None:
    module = Toy()
    objective = ToyObjective(module, break_at=lambda step: math.inf if step == 2 else 0.0)
    with pytest.raises(NonFiniteLossError, match=r"stage_2 is inf at step 3 .*there is no checkpoint yet"):
        make(tmp_path, module, objective=objective, checkpoint_every=3, log_every=100).train()
    assert list_checkpoints(tmp_path) == []


def test_a_gradient_that_overflows_is_found_before_the_weights_are_saved(tmp_path: Path) -> None:
    module = Toy()
    inner = ToyObjective(module)

    def objective(batch: dict[str, Tensor], randomness: BatchRandomness) -> LossReport:
        report = inner(batch, randomness)
        exploding = (
            torch.sqrt(module.last.weight.mul(0).sum()) if randomness.step == 1 else 0.0
        )  # value 0, slope infinite
        return LossReport(report.loss + exploding, report.parts, report.part_names)

    with pytest.raises(NonFiniteLossError, match="the gradient norm is nan at step 2"):
        make(tmp_path, module, objective=objective, max_steps=2).train()
    assert list_checkpoints(tmp_path) == []


def no_space(*_args: Any) -> None:
    raise OSError(28, "No space left on device")


def test_full_disk_at_a_periodic_checkpoint_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tmp_path, checkpoint_every=3)
    from dfm_core.training import checkpoint

    original, calls = checkpoint.write_tensors, []

    def sometimes_full(*args: Any) -> dict[str, object]:
        calls.append(1)
        if len(calls) == 5:  # the second file of the second checkpoint
            no_space()
        return original(*args)

    monkeypatch.setattr(checkpoint, "write_tensors", sometimes_full)
    assert trainer.train().step == 10
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")] == []
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000009", "step_00000010"]
    (warning,) = trainer.reporter.warnings  # type: ignore[attr-defined]
    assert "step_00000006" in warning
    assert "No space left" in warning
    assert "training goes on" in warning


@pytest.mark.parametrize("stop", [7, 10])
def test_full_disk_at_the_last_checkpoint_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    from dfm_core.training import checkpoint_writer as module

    original = module.save_checkpoint

    def full_at_the_end(run: Path, step: int, *rest: Any) -> Path:
        if step == stop:
            monkeypatch.setattr("dfm_core.training.checkpoint.write_tensors", no_space)
        return original(run, step, *rest)

    monkeypatch.setattr(module, "save_checkpoint", full_at_the_end)
    with pytest.raises(CheckpointError, match=f"could not write checkpoint .*{stop}.*No space left"):
        interrupted_trainer(tmp_path, stop, checkpoint_every=4).train()
    assert newest(tmp_path).step == stop // 4 * 4


@pytest.mark.parametrize("background", [True, False])
def test_a_run_that_can_save_nothing_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool) -> None:
    monkeypatch.setattr("dfm_core.training.checkpoint.write_tensors", no_space)
    trainer = make(tmp_path, checkpoint_every=2, async_checkpoints=background, max_steps=100)
    with pytest.raises(CheckpointError, match=r"the last 3 checkpoints could not be written to .*make room there"):
        trainer.train()
    warnings = trainer.reporter.warnings  # type: ignore[attr-defined]
    assert [("step_0000000" in warning, "No space left" in warning) for warning in warnings] == [(True, True)] * 3
    assert list_checkpoints(tmp_path) == []


def test_a_run_that_has_a_checkpoint_goes_on_without_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, max_steps=2).train()
    monkeypatch.setattr("dfm_core.training.checkpoint.write_tensors", no_space)
    trainer = make(tmp_path, checkpoint_every=2, max_steps=12)
    with pytest.raises(CheckpointError, match="could not write checkpoint .*12"):  # the last one
        trainer.train(newest(tmp_path))
    assert len(trainer.reporter.warnings) >= 4  # type: ignore[attr-defined]


def test_failures_that_are_not_in_a_row_are_forgiven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fail, one succeeds and is lost, two fail: never three in a row."""
    from dfm_core.training import checkpoint_writer as module

    def mostly_full(run: Path, step: int, *rest: Any) -> None:
        if step not in (3, 6):
            no_space()

    monkeypatch.setattr(module, "save_checkpoint", mostly_full)
    assert make(tmp_path, checkpoint_every=1, async_checkpoints=False, max_steps=6).train().step == 6


def test_full_disk_at_the_log_and_the_samples_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tmp_path, on_samples=no_space, sample_every=10)
    monkeypatch.setattr(MetricsLog, "write", no_space)
    assert trainer.train().step == 10
    assert len(trainer.reporter.warnings) == 4  # type: ignore[attr-defined]


def test_data_that_ends_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data ended after 4 of 10 steps"):
        make(tmp_path, data=ToyData(length=4)).train()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    make(tmp_path).train()
    with pytest.raises(CheckpointError, match="is of another model"):
        make(tmp_path, nn.Linear(1, 1)).train(newest(tmp_path))


def test_what_differs_on_resume_is_said(tmp_path: Path) -> None:
    make(tmp_path, max_steps=4).train()
    start = newest(tmp_path)
    start.state["torch"] = "1.0"
    trainer = make(tmp_path)
    trainer.train(start)
    torch_warning, cosine_warning = trainer.reporter.warnings  # type: ignore[attr-defined]
    assert "torch 1.0" in torch_warning
    assert "now ends at step 10, no longer at 4" in cosine_warning
