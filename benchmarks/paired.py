"""Times of calls that take turns, and their ratios: what a busy machine slows down, it slows down on all sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dfm_core.bench.pairs import Ratio, exceeds, interleaved, ratio_of_times, verdict

__all__ = ["Ratio", "compared", "exceeds", "ratio_of_times", "taking_turns", "verdict"]


def taking_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in every round, after one unmeasured call of each.

    The order turns round from round to round, so that what drifts with time cancels. On a GPU the calls synchronise.
    """
    for call in calls.values():
        call()
    return interleaved(calls, seconds=0, fewest=rounds, most=rounds)


def compared(times: Mapping[str, list[float]], own: str, plain: str = "plain", again: str = "plain again") -> bool:
    """Print the ratio of `own` to `plain`, that of `again` to it, and the verdict. Return whether it is over."""
    ratio, itself = (ratio_of_times(times[name], times[plain]) for name in (own, again))
    print(f"step time, {plain} over itself: {itself}")
    print(f"step time, {own} over {plain}: {ratio}")
    print(verdict(ratio, itself))
    return exceeds(ratio, itself)
