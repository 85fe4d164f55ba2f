"""A run that stops when its minutes have passed, by a clock that nobody sets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from toy_training import Toy, ToyObjective, assert_equal_runs, interrupted_trainer, lines, make, newest

HOUR = 3600.0


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Hours that time.monotonic() is ahead; its last entry counts."""
    ahead, real = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + HOUR * ahead[-1])
    return ahead


def test_it_stops_after_the_step_and_goes_on_with_the_same_bits(tmp_path: Path, hours: list[float]) -> None:
    make(tmp_path / "whole").train()
    toy = Toy()
    slow = ToyObjective(toy, break_at=lambda step: hours.append(2.0) or 0.0 if step == 4 else 0.0)
    sampled: list[int] = []
    result = make(
        tmp_path / "run", toy, objective=slow, max_minutes=90, on_samples=sampled.append, sample_every=1
    ).train()
    assert (result.step, result.interrupted, result.out_of_time) == (5, True, True)
    assert sampled == [1, 2, 3, 4]
    assert newest(tmp_path / "run").step == 5
    result = make(tmp_path / "run", max_minutes=90, began=time.monotonic()).train(newest(tmp_path / "run"))
    assert (result.step, result.interrupted, result.out_of_time) == (10, False, False)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_minutes_count_from_the_beginning_of_the_call(tmp_path: Path) -> None:
    result = make(tmp_path, max_minutes=60, began=time.monotonic() - HOUR).train()
    assert (result.step, result.out_of_time) == (1, True)


def test_the_last_step_is_the_end(tmp_path: Path) -> None:
    result = make(tmp_path, max_minutes=60, max_steps=1, began=time.monotonic() - HOUR).train()
    assert (result.step, result.interrupted, result.out_of_time) == (1, False, False)


def test_a_signal_counts_more(tmp_path: Path) -> None:
    result = interrupted_trainer(tmp_path, 1, max_minutes=60, began=time.monotonic() - HOUR).train()
    assert (result.step, result.interrupted, result.out_of_time) == (1, True, False)


def test_a_wall_clock_that_jumps_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert make(tmp_path, max_minutes=60).train().step == 10
