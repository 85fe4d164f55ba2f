"""The Fréchet distance between sets of features, taken as Gaussians; in float64."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import Features, ImageBatch, Metric, MetricFacts, Values
from dfm_plugins.metrics.frames import noun_of

FEATURES = "features"


class Extractor(ABC):
    """Images or clips to feature vectors.

    name: for messages. dimensions: of a vector. vectors: how many an image or clip has.
    """

    name: str
    dimensions: int
    vectors: int = 1

    @abstractmethod
    def __call__(self, batch: ImageBatch) -> Tensor:
        """Return features (B, dimensions), or (B, vectors, dimensions) of several."""

    @property
    @abstractmethod
    def variant(self) -> Mapping[str, str | int | float]:
        """Which network this is."""

    def prepare(self, reference: Iterable[ImageBatch]) -> dict[str, Tensor]:
        """See `Metric.prepare`."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 (what comes from a file learns nothing)
        """See `Metric.restore`."""


class FeatureMetric(Metric):
    """A metric on the vectors of an extractor."""

    def __init__(self, options: Any, facts: MetricFacts, extractor: Extractor) -> None:
        super().__init__(options, facts)
        self.extractor = extractor

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """Which network's features."""
        return self.extractor.variant

    def prepare(self, reference: Iterable[ImageBatch]) -> dict[str, Tensor]:
        """Prepare the extractor."""
        return self.extractor.prepare(reference)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the extractor."""
        self.extractor.restore(state)

    @torch.no_grad()
    def features(self, batch: ImageBatch) -> Features:
        """{"features": (B, dimensions)}, of several vectors (B, vectors, dimensions)."""
        return {FEATURES: self.extractor(batch).float().cpu()}


class FrechetDistance(FeatureMetric):
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½). key: name of the value."""

    def __init__(self, options: Any, facts: MetricFacts, extractor: Extractor, key: str) -> None:
        super().__init__(options, facts, extractor)
        self.resamples, self.key = options.resamples, key

    def against(self, reference: Features) -> Callable[[Features], Values]:
        """Fit a Gaussian to the reference; the function fits one to the samples."""
        expected = gaussian_of(reference[FEATURES])
        return lambda samples: {self.key: frechet_distance(expected, gaussian_of(samples[FEATURES]))}

    def warnings(self, reference: int, samples: int) -> list[str]:
        """Fewer images than dimensions leave most of a covariance unknown."""
        noun, vectors = noun_of(self.facts), self.extractor.vectors
        few = {"samples": samples, f"reference {noun}": reference}
        each = f" of {vectors} frames" if vectors > 1 else ""
        return [
            f"{self.key}: {count} {what}{each} for features of {self.extractor.dimensions} dimensions: their "
            f"covariance is mostly a guess, and the distance too large; take more {noun}"
            for what, count in few.items()
            if count * vectors <= self.extractor.dimensions
        ]


@dataclass(frozen=True)
class Gaussian:
    """mean (D,) and a factor (n, D), n ≤ D, whose factorᵀ·factor is the covariance; float64."""

    mean: Tensor
    factor: Tensor


def gaussian_of(features: Tensor) -> Gaussian:
    """Fit a Gaussian to features (N, D) or (N, vectors, D), the covariance with their number less one.

    Raises UsageError for less than two of N.
    """
    if len(features) < 2:
        raise UsageError(f"a Fréchet distance needs at least 2 images or clips of either set, got {len(features)}")
    values = features.flatten(0, -2).double()
    mean = values.mean(0)
    rows = (values - mean) / (len(values) - 1) ** 0.5
    return Gaussian(mean, torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Fréchet (Wasserstein-2) distance of two Gaussians. Dowson and Landau 1982; Heusel et al. 2017, eq. 6.

    With Σ = FᵀF, the eigenvalues of Σ₁Σ₂ that are not zero are those of GGᵀ, G = F₁F₂ᵀ: symmetric, and no larger than
    the smaller set.
    """
    product = first.factor @ second.factor.T
    if product.shape[0] > product.shape[1]:
        product = product.T
    root_trace = torch.linalg.eigvalsh(product @ product.T).clamp_min(0).sqrt().sum()
    traces = first.factor.square().sum() + second.factor.square().sum()
    distance = (first.mean - second.mean).square().sum() + traces - 2 * root_trace
    return float(distance.clamp_min(0))
