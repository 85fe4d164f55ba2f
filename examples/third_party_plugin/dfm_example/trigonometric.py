"""The path `example/trigonometric`: a quarter of a circle from the noise to the data of every stage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from dfm_core.flow import expand_to
from dfm_core.interfaces.path import Moments, ProbabilityPath
from dfm_core.stages import Stages
from torch import Tensor

QUARTER = math.pi / 2


class Trigonometric(ProbabilityPath):
    """X_t = sin(πt/2)·X_1 + cos(πt/2)·X_0. Albergo and Vanden-Eijnden 2023: data of variance 1 keep it all the way."""

    def at(self, data: Sequence[Tensor], noise: Sequence[Tensor], t: Tensor) -> tuple[Stages, Stages]:
        """Return the noisy stages and their velocities at times t (B, S), in the shapes of `data`."""
        noisy, velocities = [], []
        for index, (x, epsilon) in enumerate(zip(data, noise, strict=True)):
            angle = expand_to(QUARTER * t[:, index].to(x.dtype), x)
            noisy.append(angle.sin() * x + angle.cos() * epsilon)
            velocities.append(QUARTER * (angle.cos() * x - angle.sin() * epsilon))
        return tuple(noisy), tuple(velocities)

    def moments(self, t: Tensor, stage_sigmas: Tensor) -> Moments:
        """Return the second moments at times t (..., S); the map from (data, noise) to (X, v) has determinant π/2."""
        sine, cosine = torch.sin(QUARTER * t), torch.cos(QUARTER * t)
        square = stage_sigmas.square()
        return Moments(
            noisy=sine.square() * square + cosine.square(),
            cross=QUARTER * sine * cosine * (square - 1),
            velocity=QUARTER**2 * (cosine.square() * square + sine.square()),
            gram_root=(QUARTER * stage_sigmas).expand_as(t),
        )
