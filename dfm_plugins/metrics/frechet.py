"""The Fréchet distance between sets of features, taken as Gaussians."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import Features, ImageBatch, Metric, MetricFacts, Values
from dfm_plugins.metrics.frames import noun_of
from dfm_plugins.metrics.gaussians import Gaussian, Moments, frechet_distance, moments_of

FEATURES = "features"
MOST_KEPT = 50_000
"""Vectors of a reference that are kept: as many samples as are usual can be compared with as many real images."""


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
    """A metric on the vectors of an extractor, which metrics of the same network share."""

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

    @property
    def features_key(self) -> str:
        """The extractor and its variant, which says all that features depend on."""
        return json.dumps({"extractor": self.extractor.name, **self.extractor.variant}, sort_keys=True)

    @torch.no_grad()
    def features(self, batch: ImageBatch) -> Features:
        """{"features": (B, dimensions)}, of several vectors (B, vectors, dimensions)."""
        return {FEATURES: self.extractor(batch).float().cpu()}

    def condense(self, rows: Features, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Number, mean and covariance: all that a Fréchet distance needs."""
        moments = moments_of(rows[FEATURES].flatten(0, -2))
        return (Moments.from_tensors(state).joined(moments) if state else moments).tensors()


class FrechetDistance(FeatureMetric):
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½). key: name of the value."""

    fewest_images = 2

    def __init__(self, options: Any, facts: MetricFacts, extractor: Extractor, key: str) -> None:
        super().__init__(options, facts, extractor)
        self.resamples, self.key = options.resamples, key
        self.kept_rows = most_kept(extractor)

    def against(self, reference: Features) -> Callable[[Features], Values]:
        """Fit a Gaussian to the reference; the function fits one to the samples."""
        expected = moments_of_images(reference).gaussian()
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


def most_kept(extractor: Extractor) -> int:
    """How many reference images keep their vectors."""
    return max(2, MOST_KEPT // extractor.vectors)


def moments_of_images(reference: Features) -> Moments:
    """Moments of all vectors of images, (N, D) or (N, vectors, D), those that were condensed among them.

    Raises UsageError for less than two of N.
    """
    rows = reference[FEATURES]
    if len(rows) < 2:
        raise UsageError(f"a Fréchet distance needs at least 2 images or clips of either set, got {len(rows)}")
    kept = moments_of(rows.flatten(0, -2))
    return kept if "count" not in reference else kept.joined(Moments.from_tensors(reference))


def gaussian_of(features: Tensor) -> Gaussian:
    """Fit a Gaussian to features (N, D) or (N, vectors, D). Raises UsageError for less than two of N."""
    return moments_of_images({FEATURES: features}).gaussian()
