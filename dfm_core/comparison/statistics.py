"""Paired statistics of a comparison: log-ratios over seeds, and when they say that something was won."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95
"""Two-sided: where nothing differs, one comparison in twenty is called won or lost all the same."""

Verdict = Literal["won", "lost", "open"]


def t_probability(t: float, degrees: int) -> float:
    """Probability that a Student t variable of `degrees` (≥ 1) lies between −t and t ≥ 0.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    theta = math.atan2(t, math.sqrt(degrees))
    cosine, odd = math.cos(theta), degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    if odd:
        return 2 / math.pi * (theta + math.sin(theta) * total)
    return math.sin(theta) * total


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t > 0 such that a Student t variable lies within −t … t with probability `confidence` in (0, 1)."""
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, degrees) < confidence else (low, middle)
    return (low + high) / 2


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
