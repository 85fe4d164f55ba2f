"""Ratios of interleaved times, and what they allow to say: all outcomes, from times that are made up."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from dfm_core.bench.pairs import Ratio, exceeds, interleaved, ratio_of_times, verdict

STEADY = [1.0] * 40
WOBBLING = [0.97, 1.0, 1.0, 1.05] * 10
BUSY = [0.7, 1.4] * 20


def test_calls_are_interleaved() -> None:
    order: list[str] = []
    calls: dict[str, Callable[[], object]] = {name: lambda name=name: order.append(name) for name in "abc"}  # type: ignore[misc]
    times = interleaved(calls, seconds=0, fewest=3)
    assert "".join(order) == "abccbaabc"
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_that_of_the_pairs() -> None:
    """What slows both sides of a pair cancels, and one pair in ten that is off does not count."""
    second = [1.0 + index % 7 for index in range(40)]
    first = [1.1 * time * (5 if index % 10 == 0 else 1) for index, time in enumerate(second)]
    ratio = ratio_of_times(first, second)
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((1.1, 1.1, 1.1))
    inverse = ratio_of_times(second, first)
    assert inverse.median == pytest.approx(1 / 1.1)


def test_the_interval_grows_with_the_noise_and_is_the_same_every_time() -> None:
    ratio, wide = ratio_of_times(WOBBLING, STEADY), ratio_of_times(BUSY, STEADY)
    assert ratio.low <= ratio.median <= ratio.high
    assert wide.high - wide.low > 0.3 > ratio.high - ratio.low
    assert ratio == ratio_of_times(WOBBLING, STEADY)
    with pytest.raises(ValueError, match="zip"):
        ratio_of_times([1.0, 1.0], [1.0])


@pytest.mark.parametrize(
    ("factor", "itself", "says", "over"),
    [
        (1.0, STEADY, "within the bound of 1.02", False),
        (1.02, STEADY, "within the bound of 1.02", False),
        (0.8, STEADY, "within the bound of 1.02", False),
        (1.2, STEADY, "OVER the bound of 1.02", True),
        (1.2, BUSY, "not measurable now: the same code against itself gives ", False),
        (1.0, BUSY, "not measurable now: ", False),
        (1.2, [1.03] * 40, "not measurable now: ", False),
        (1.2, [0.97] * 40, "not measurable now: ", False),
    ],
)
def test_verdicts(factor: float, itself: list[float], says: str, over: bool) -> None:
    ratio, own = ratio_of_times([factor] * 40, STEADY), ratio_of_times(itself, STEADY)
    assert verdict(ratio, own).startswith(says)
    assert exceeds(ratio, own) == over
    assert "upper end" not in verdict(ratio, own)


def test_an_interval_that_holds_the_bound_says_so() -> None:
    own = ratio_of_times(STEADY, STEADY)
    assert verdict(Ratio(1.01, 0.99, 1.03), own) == "within the bound of 1.02, though not by the upper end"
    assert verdict(Ratio(1.05, 1.021, 1.08), own) == "OVER the bound of 1.02"
    assert verdict(Ratio(1.05, 1.021, 1.08), own, bound=1.1) == "within the bound of 1.1"
    assert exceeds(Ratio(1.05, 1.021, 1.08), own)
    assert not exceeds(Ratio(1.05, 1.021, 1.08), own, bound=1.1)


@pytest.mark.parametrize(("factor", "itself", "code"), [(1.0, 1.0, 0), (1.2, 1.0, 1), (1.2, 1.2, 0)])
def test_a_benchmark_ends_with_1_where_the_bound_is_broken(
    factor: float, itself: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    paired = importlib.import_module("paired")
    times = {"plain": STEADY, "plain again": [itself] * 40, "two stages": [factor] * 40}
    assert int(paired.compared(times, "two stages")) == code
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said[:2]] == [
        "step time, plain over itself",
        "step time, two stages over plain",
    ]
    order: list[str] = []
    made = paired.taking_turns({name: lambda name=name: order.append(name) for name in "pas"}, 250)
    assert len(made["p"]) == 250
    assert "".join(order).startswith("pas" + "pas" + "sap")
