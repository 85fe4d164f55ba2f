"""Time ratios of interleaved pairs: what a busy machine slows down, it slows down on both sides."""

from __future__ import annotations

from collections.abc import Callable

from dfm_core.bench.pairs import Ratio, interleaved, ratio_of_times, verdict

__all__ = ["Ratio", "paired_ratio", "ratio_of_times", "verdict"]


def paired_ratio(first: Callable[[], object], second: Callable[[], object], pairs: int = 30) -> Ratio:
    """Ratio time(first) / time(second) over interleaved pairs, after one unmeasured call of each.

    The order changes from pair to pair, so that what drifts with time cancels. On a GPU the callables synchronise.
    """
    first(), second()
    times = interleaved({"first": first, "second": second}, seconds=0, fewest=pairs)
    return ratio_of_times(times["first"], times["second"])
