"""Gaussians fitted to vectors, some thousand of them at a time, and the Fréchet distance of two; in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

_ROWS_AT_ONCE = 1 << 14
"""Vectors that are there in float64 at once: of 2048 dimensions, 268 MB."""


@dataclass(frozen=True)
class Gaussian:
    """mean (D,) and a factor (n, D), n ≤ D, whose factorᵀ·factor is the covariance; float64."""

    mean: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Moments:
    """Number, mean (D,) and spread of some vectors; float64.

    factor: (n, D), n ≤ D; factorᵀ·factor is the sum of (x − mean)(x − mean)ᵀ. That sum itself, and its square root at
    the end, would lose half of the digits.
    """

    count: int
    mean: Tensor
    factor: Tensor

    def joined(self, other: Moments) -> Moments:
        """Moments of both sets of vectors. Chan, Golub and LeVeque 1979."""
        count, difference = self.count + other.count, other.mean - self.mean
        between = difference * (self.count * other.count / count) ** 0.5
        factor = shortened(torch.cat([self.factor, other.factor, between[None]]))
        return Moments(count, self.mean + difference * (other.count / count), factor)

    def gaussian(self) -> Gaussian:
        """The Gaussian of these moments, the covariance with their number less one."""
        return Gaussian(self.mean, self.factor / (self.count - 1) ** 0.5)

    def tensors(self) -> dict[str, Tensor]:
        """The same as tensors, for `from_tensors`."""
        return {"count": torch.tensor(self.count), "mean": self.mean, "factor": self.factor}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Moments:
        """What `tensors` gave, among other tensors perhaps."""
        return cls(int(tensors["count"]), tensors["mean"], tensors["factor"])


def moments_of(vectors: Tensor) -> Moments:
    """Moments of vectors (N, D), N ≥ 1."""
    return reduce(Moments.joined, map(_moments, vectors.split(_ROWS_AT_ONCE)))


def _moments(vectors: Tensor) -> Moments:
    values = vectors.double()
    mean = values.mean(0)
    return Moments(len(values), mean, shortened(values - mean))


def shortened(factor: Tensor) -> Tensor:
    """A factor of at most D rows with the same factorᵀ·factor."""
    return torch.linalg.qr(factor, mode="r").R if len(factor) > factor.shape[1] else factor


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
