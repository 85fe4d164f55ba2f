"""The trainer on a toy objective: it equals a bare loop, and a resumed run one that never stopped."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_training import (
    Toy,
    ToyData,
    ToyObjective,
    assert_equal_runs,
    interrupted_trainer,
    lines,
    make,
    newest,
)

from dfm_core.randomness import BatchRandomness, derive_seed
from dfm_core.training.checkpoint import list_checkpoints
from dfm_core.training.learner import micro_batches


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("stop", [1, 5, 9])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path, stop: int, accumulation: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    validate: dict[str, Any] = {"validate": lambda: {"loss": 0.5}, "validation_every": 5, "accumulation": accumulation}
    reference = make(whole, **validate).train()
    first = interrupted_trainer(parts, stop, **validate).train()
    assert (first.step, first.interrupted) == (stop, True)
    random.seed(stop)
    torch.manual_seed(stop)  # whatever the new process has in its global state
    second = make(parts, **validate).train(newest(parts))
    assert (second.step, second.interrupted, second.last_loss) == (10, False, reference.last_loss)
    assert_equal_runs(whole, parts)
    assert lines(parts) == lines(whole)


def test_more_steps_later_equal_more_steps_at_once(tmp_path: Path) -> None:
    constant: dict[str, Any] = {"rate_schedule": "constant"}
    make(tmp_path / "whole", **constant).train()
    make(tmp_path / "parts", max_steps=6, **constant).train()
    assert lines(tmp_path / "parts")[-1]["provisional"]
    result = make(tmp_path / "parts", **constant).train(newest(tmp_path / "parts"))
    assert result.step == 10
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_a_killed_run_goes_on_from_its_periodic_checkpoint(tmp_path: Path) -> None:
    make(tmp_path / "whole", checkpoint_every=3).train()

    class Killed(BaseException):
        pass

    def kill(step: int) -> float:
        if step == 8:
            raise Killed
        return 0.0

    module = Toy()
    trainer = make(tmp_path / "parts", module, checkpoint_every=3, objective=ToyObjective(module, break_at=kill))
    with pytest.raises(Killed):
        trainer.train()
    assert [line["step"] for line in lines(tmp_path / "parts")] == [4, 8]
    start = newest(tmp_path / "parts")
    assert start.step == 6
    make(tmp_path / "parts", checkpoint_every=3).train(start)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_the_trainer_equals_a_bare_loop(tmp_path: Path) -> None:
    make(tmp_path).train()

    module = Toy()
    objective, ema = ToyObjective(module), [p.detach().clone() for p in module.parameters()]
    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01, fused=True)
    for step, batch in zip(range(10), ToyData().batches(0), strict=False):
        torch.manual_seed(derive_seed(3, "network", step))
        objective(batch, BatchRandomness(3, step, 0, 8, 8)).loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        rate = min(1.0, (step + 1) / 3) * (1.0 if step < 3 else (1 + math.cos(math.pi * (step - 3) / 7)) / 2)
        optimizer.param_groups[0]["lr"] = 0.05 * rate
        optimizer.step()
        optimizer.zero_grad()
        for average, parameter in zip(ema, module.parameters(), strict=True):
            average.lerp_(parameter.detach(), 1 - min(0.9, (1 + step) / (10 + step)))
    saved = newest(tmp_path)
    for (name, parameter), average in zip(module.named_parameters(), ema, strict=True):
        torch.testing.assert_close(saved.tensors("weights")[name], parameter.detach(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(saved.tensors("ema")[name], average, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("accumulation", [2, 3, 8, 20])
def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path: Path, accumulation: int) -> None:
    runs = []
    for number in (1, accumulation):
        module = Toy(dropout=0.0, norm=False).double()
        trainer = make(tmp_path / str(number), module, accumulation=number, max_steps=5, epsilon=1e-3, log_every=1)
        trainer.train()
        runs.append((module, lines(tmp_path / str(number)), trainer.objective.seen))  # type: ignore[attr-defined]
    (one, one_lines, _), (many, many_lines, seen) = runs
    for left, right in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-8)
    for left_line, right_line in zip(one_lines, many_lines, strict=True):
        assert left_line["loss"] == pytest.approx(right_line["loss"], rel=1e-5)
        assert left_line["parts"] == pytest.approx(right_line["parts"], rel=1e-5)
    ranges = micro_batches(8, accumulation)
    assert [entry[1:3] for entry in seen[: len(ranges)]] == ranges
    assert all(entry[3] == 8 for entry in seen)


def test_micro_batches_cover_the_batch() -> None:
    assert micro_batches(8, 3) == [(0, 2), (2, 5), (5, 8)]
    assert micro_batches(2, 4) == [(0, 1), (1, 2)]


def test_an_interrupt_in_the_last_step_is_none(tmp_path: Path) -> None:
    result = interrupted_trainer(tmp_path, 10).train()
    assert (result.step, result.interrupted) == (10, False)


def test_an_interrupt_ends_a_sample_grid_at_once_and_loses_nothing(tmp_path: Path) -> None:
    finished: list[int] = []

    def slow(step: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        finished.append(step)

    make(tmp_path / "whole").train()
    module = Toy()
    result = make(tmp_path / "parts", module, on_samples=slow, sample_every=5).train()
    assert (result.step, result.interrupted, finished) == (5, True, [])
    start = newest(tmp_path / "parts")
    assert all(torch.equal(value, start.tensors("weights")[key]) for key, value in module.state_dict().items())
    make(tmp_path / "parts").train(start)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_after_an_interrupt_no_sample_grid_begins(tmp_path: Path) -> None:
    sampled: list[int] = []
    interrupted_trainer(tmp_path, 5, on_samples=sampled.append, sample_every=1).train()
    assert sampled == [1, 2, 3, 4]


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    first = make(tmp_path).train()
    stamp = (first.checkpoint / "state.json").stat().st_mtime_ns
    again = make(tmp_path).train(newest(tmp_path))
    assert again == first
    assert (first.checkpoint / "state.json").stat().st_mtime_ns == stamp


def test_the_snapshot_is_in_every_checkpoint(tmp_path: Path) -> None:
    make(tmp_path, checkpoint_every=5).train()
    states = [json.loads((path / "state.json").read_text()) for path in list_checkpoints(tmp_path)]
    assert [state["step"] for state in states] == [5, 10]
    assert all((s["config"], s["statistics"]) == ({"x": 1}, {"rms": [0.5]}) for s in states)
