"""Student's t: how far a mean of few numbers may lie from the truth."""

from __future__ import annotations

import math

CONFIDENCE = 0.95
"""Two-sided: where nothing differs, one comparison in twenty is called won or lost all the same."""


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
