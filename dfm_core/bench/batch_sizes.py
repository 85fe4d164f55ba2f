"""Throughput by batch size, and the size to use."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal

from dfm_core.bench.report import BatchSize, Recommendation

GOOD_ENOUGH = 0.95
"""Share of the best throughput from which a larger batch is not worth its memory."""
USABLE = 0.8
"""Share of the free memory that a step may take: the plan knows nothing of caches and other programs."""
LARGEST = 1024
REPEATS = 2

End = Literal["memory", "saturated", "time", "largest"]


def measure_batch_sizes(
    run: Callable[[int], object], memory: Callable[[int], int], free: int | None, seconds: float
) -> tuple[list[BatchSize], End]:
    """Time `run(size)` for sizes 1, 2, 4, … and say why no larger one was tried.

    memory: bytes that a size needs; a size that takes more than the usable share of `free` is not run, but for the
    first. seconds: begin no size that would end later.
    """
    points: list[BatchSize] = []
    deadline = time.perf_counter() + seconds
    size = 1
    while size <= LARGEST:
        need = memory(size)
        if points and free is not None and need > USABLE * free:
            return points, "memory"
        # As many samples again, twice over.
        if points and time.perf_counter() + 2 * (REPEATS + 1) * points[-1].batch_size / points[-1].images_per_second > (
            deadline
        ):
            return points, "time"
        points.append(BatchSize(size, size / _seconds(run, size), need))
        if _is_saturated(points):
            return points, "saturated"
        size *= 2
    return points, "largest"


def _seconds(run: Callable[[int], object], size: int) -> float:
    """Median over a few steps, the first left out: it asks for memory."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run(size)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _is_saturated(points: Sequence[BatchSize]) -> bool:
    """Whether the last two doublings brought nothing."""
    if len(points) < 3:
        return False
    before = max(point.images_per_second for point in points[:-2])
    return all(GOOD_ENOUGH * point.images_per_second < before for point in points[-2:])


def recommend(points: Sequence[BatchSize], end: End) -> Recommendation:
    """The smallest measured size whose throughput is within 5% of the best."""
    best = max(point.images_per_second for point in points)
    chosen = next(point for point in points if point.images_per_second >= GOOD_ENOUGH * best)
    if chosen is not points[-1] or end == "saturated":
        return Recommendation(chosen.batch_size, "the smallest within 5% of the best throughput")
    why = {
        "memory": f"the largest measured size whose estimate is within {USABLE:.0%} of the free memory; "
        "training.accumulation makes larger batches of it",
        "time": "the largest that was measured in the time; larger ones may be faster",
        "largest": "the largest that was measured",
    }
    return Recommendation(chosen.batch_size, why[end])
