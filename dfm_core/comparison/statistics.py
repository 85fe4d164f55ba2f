"""Paired statistics of a comparison: log-ratios over seeds, and when they say that something was won."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dfm_core.students_t import t_quantile

Verdict = Literal["won", "lost", "open"]


@dataclass(frozen=True)
class Spread:
    """Mean of a number over seeds. deviation: of one seed from another (sample standard deviation); None for one."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Spread of at least one value."""
        mean = math.fsum(values) / len(values)
        if len(values) < 2:
            return cls(mean, None, 1)
        variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
        return cls(mean, math.sqrt(variance), len(values))

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None for one value."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.count)


def log_ratio(values: Mapping[int, float], reference: Mapping[int, float]) -> Spread | None:
    """Spread of log(value / reference), paired over the seeds that both have; None without any.

    Only finite numbers above 0 have a logarithm: a seed where either is not is left out.
    """
    ratios = [
        math.log(values[seed] / reference[seed])
        for seed in sorted(set(values) & set(reference))
        if all(0 < number < math.inf for number in (values[seed], reference[seed]))
    ]
    return Spread.of(ratios) if ratios else None


def verdict(ratio: Spread | None, better: str) -> Verdict | None:
    """Whether the mean is further from 0 than the t-quantile of its standard errors; None for fewer than two seeds.

    better: lower or higher, which values are good.
    """
    if ratio is None or ratio.error is None:
        return None
    if abs(ratio.mean) <= t_quantile(ratio.count - 1) * ratio.error:
        return "open"
    return "won" if (ratio.mean < 0) == (better == "lower") else "lost"
