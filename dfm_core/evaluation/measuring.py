"""From features to numbers: the value, its interval, and what real images would score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from dfm_core.evaluation.reference_features import ReferenceFeatures, count
from dfm_core.interfaces.metric import Features, Metric, Values
from dfm_core.randomness import derive_generator
from dfm_core.students_t import t_quantile

MOST_BROKEN = 0.1
"""Share of samples that are not finite up to which the others are measured."""


@dataclass(frozen=True)
class RealScore:
    """What `images` real ones score that are not part of the reference, or are taken out of it."""

    values: Values
    images: int


@dataclass(frozen=True)
class MetricResult:
    """A metric's numbers of one set of samples.

    metric: its name. better: lower or higher. values: the first is the metric's own. interval: 95 % of the first, None
    without. real: None where the reference is too small. reference, samples: how many images of either were used.
    variant: what exactly was measured. warnings: sentences.
    """

    metric: str
    better: str
    values: Values
    interval: tuple[float, float] | None
    real: RealScore | None
    reference: int
    samples: int
    variant: dict[str, Any]
    warnings: list[str]

    @property
    def value(self) -> float:
        """The metric's own number."""
        return next(iter(self.values.values()))

    def with_broken(self, broken: int, total: int, noun: str) -> MetricResult:
        """Say that some samples were no images; where they are more than a tenth, numbers mean nothing and go."""
        warnings = [*self.warnings, f"{broken} of {total} {noun} held numbers that are not finite, and are black"]
        if broken <= MOST_BROKEN * total:
            return replace(self, warnings=warnings)
        return replace(self, values=dict.fromkeys(self.values, math.nan), interval=None, warnings=warnings)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; a number that is not finite becomes null."""
        return {
            "metric": self.metric,
            "better": self.better,
            "values": finite(self.values),
            "interval": None if self.interval is None else [_finite(bound) for bound in self.interval],
            "real": None if self.real is None else {"values": finite(self.real.values), "images": self.real.images},
            "images": {"samples": self.samples, "reference": self.reference},
            "variant": finite(self.variant),
            "warnings": self.warnings,
        }


def measure(
    name: str, metric: Metric, reference: ReferenceFeatures, samples: Features, real: RealScore | None
) -> MetricResult:
    """Measure samples against a reference; both are the metric's features."""
    against = metric.against(reference.given)
    values, counts = against(samples), (reference.count, count(samples))
    return MetricResult(
        metric=name,
        better=metric.better,
        values=values,
        interval=interval(against, samples, next(iter(values.values())), metric.resamples),
        real=real,
        reference=counts[0],
        samples=counts[1],
        variant=dict(metric.variant),
        warnings=metric.warnings(*counts),
    )


def real_score(metric: Metric, reference: ReferenceFeatures, held_out: Features, samples: int) -> RealScore | None:
    """Measure as many real images as there are samples, or as there are.

    held_out: those that are not part of the reference; without any, some of the reference against its others.
    """
    if held_out:
        taken = {name: rows[:samples] for name, rows in held_out.items()}
        return RealScore(metric.against(reference.given)(taken), count(taken))
    parts = reference.parted(samples)
    if parts is None:
        return None
    others, taken = parts
    return RealScore(metric.against(others.given)(taken), count(taken))


def interval(
    against: Callable[[Features], Values], samples: Features, value: float, resamples: int
) -> tuple[float, float] | None:
    """Interval of the first number from its bootstrap: what another draw of as many samples would scatter by.

    Samples drawn with replacement are less various than the samples: for a distance, that adds to all of them alike. So
    the value is the middle, and only the standard deviation is that of the bootstrap: of some twenty numbers, quantiles
    would say little. The deviation is itself a guess, hence Student's t.
    """
    if resamples < 2 or count(samples) < 2:
        return None
    drawn = []
    for number in range(resamples):
        rows = torch.randint(count(samples), (count(samples),), generator=derive_generator(0, "bootstrap", number))
        drawn.append(next(iter(against({name: part[rows] for name, part in samples.items()}).values())))
    reach = t_quantile(resamples - 1) * float(torch.tensor(drawn, dtype=torch.float64).std(correction=1))
    return value - reach, value + reach


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Values for JSON, which knows finite numbers only."""
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
