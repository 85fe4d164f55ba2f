"""Time ratios of interleaved pairs: what a busy machine slows down, it slows down on both sides."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """Median ratio of the pairs and its 95% bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.4f} (95%: {self.low:.4f} to {self.high:.4f})"


def paired_ratio(first: Callable[[], object], second: Callable[[], object], pairs: int = 30) -> Ratio:
    """Ratio time(first) / time(second) over interleaved pairs, after one unmeasured call of each.

    The order changes from pair to pair, so that what drifts with time cancels. On a GPU the callables synchronise.
    """
    first(), second()
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        order = ((first, 0), (second, 1)) if pair % 2 == 0 else ((second, 1), (first, 0))
        for call, side in order:
            start = time.perf_counter()
            call()
            times[side].append(time.perf_counter() - start)
    return ratio_of_times(*times)


def ratio_of_times(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Ratio first / second of times that were measured in pairs."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return Ratio(statistics.median(ratios), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1])


def verdict(ratio: Ratio, itself: Ratio, bound: float = 1.02) -> str:
    """Say whether the lower end of `ratio` is within `bound`.

    itself: the same code against itself, measured alongside; where its interval is as wide as the bound, nothing can
    be said.
    """
    if itself.low < 1 / bound or itself.high > bound:
        return f"not measurable now: the same code against itself gives {itself}; is the machine busy?"
    if ratio.low <= bound:
        return f"within the bound of {bound}" + ("" if ratio.high <= bound else ", though not by the upper end")
    return f"OVER the bound of {bound}"
