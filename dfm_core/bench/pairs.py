"""Time ratios of interleaved calls: what a busy machine slows down, it slows down on all sides."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """Median ratio of the pairs and its 95% bootstrap interval."""

    median: float
    low: float
    high: float

    def __truediv__(self, divisor: float) -> Ratio:
        return Ratio(self.median / divisor, self.low / divisor, self.high / divisor)

    def __str__(self) -> str:
        return f"{self.median:.4f} (95%: {self.low:.4f} to {self.high:.4f})"


def interleaved(
    calls: Mapping[str, Callable[[], object]], seconds: float, fewest: int = 4, most: int = 200
) -> dict[str, list[float]]:
    """Seconds of each call, in turn for about `seconds`: between `fewest` and `most` rounds of all of them.

    The order turns round from round to round, so that what drifts with time cancels. On a GPU the calls synchronise.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.perf_counter() + seconds
    for index in range(most):
        order = list(calls)[:: 1 if index % 2 == 0 else -1]
        for name in order:
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
        if index + 1 >= fewest and time.perf_counter() >= deadline:
            break
    return times


def ratio_of_times(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Ratio first / second of times that were measured in pairs."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return Ratio(statistics.median(ratios), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1])


def measurable(itself: Ratio, bound: float = 1.02) -> bool:
    """Whether the same code against itself stays within `bound`, either way; else nothing can be said of others."""
    return itself.low >= 1 / bound and itself.high <= bound


def exceeds(ratio: Ratio, itself: Ratio, bound: float = 1.02) -> bool:
    """Whether `ratio` is above `bound` for certain: by its lower end, and where anything can be said."""
    return measurable(itself, bound) and ratio.low > bound


def verdict(ratio: Ratio, itself: Ratio, bound: float = 1.02) -> str:
    """Say whether the lower end of `ratio` is within `bound`.

    itself: the same code against itself, measured alongside.
    """
    if not measurable(itself, bound):
        return f"not measurable now: the same code against itself gives {itself}; is the machine busy?"
    if exceeds(ratio, itself, bound):
        return f"OVER the bound of {bound}"
    return f"within the bound of {bound}" + ("" if ratio.high <= bound else ", though not by the upper end")
