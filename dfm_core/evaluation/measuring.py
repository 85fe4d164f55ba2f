"""From features to numbers: the value, its interval, and what real images would score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dfm_core.evaluation.reference_features import ReferenceFeatures, count
from dfm_core.interfaces.metric import Features, Metric, Values
from dfm_core.randomness import derive_generator

CONFIDENCE = 0.95


@dataclass(frozen=True)
class RealScore:
    """What real images score: `images` of the reference, taken out of it, against the rest."""

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


def real_score(metric: Metric, reference: ReferenceFeatures, samples: int) -> RealScore | None:
    """Measure as many real images as there are samples, or as can be taken out, against the others."""
    parts = reference.parted(samples)
    if parts is None:
        return None
    others, taken = parts
    return RealScore(metric.against(others.given)(taken), count(taken))


def interval(
    against: Callable[[Features], Values], samples: Features, value: float, resamples: int
) -> tuple[float, float] | None:
    """Bootstrap interval of the first number, centred: what another draw of as many samples would scatter by.

    Samples drawn with replacement are less various than the samples: for a distance, that adds to all of them alike. So
    the quantiles are taken of the differences from their mean.
    """
    if not resamples or count(samples) < 2:
        return None
    drawn = []
    for number in range(resamples):
        rows = torch.randint(count(samples), (count(samples),), generator=derive_generator(0, "bootstrap", number))
        drawn.append(next(iter(against({name: part[rows] for name, part in samples.items()}).values())))
    spread = torch.tensor(drawn, dtype=torch.float64)
    edges = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=torch.float64)
    low, high = (spread - spread.mean()).quantile(edges).tolist()
    return value + low, value + high


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Values for JSON, which knows finite numbers only."""
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
