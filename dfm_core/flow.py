"""The flow on one stage and its loss over all stages (paper eqs. 1, 3, 4): t = 0 is noise, t = 1 is data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dfm_core.interfaces.path import Moments, ProbabilityPath
from dfm_core.stages import Stages


def expand_to(values: Tensor, like: Tensor) -> Tensor:
    """Append dimensions of length one to `values` (B,), or (B, C), …, so that it broadcasts over `like` (B, C, ...)."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def interpolate(noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """Point at time t on the straight path from noise (t=0) to data (t=1). Paper eq. 3.

    noise, data: (B, C, *spatial). t: (B,), in [0, 1]. Returns the shape of data.
    """
    t = expand_to(t.to(data.dtype), data)
    return t * data + (1 - t) * noise


def velocity_target(noise: Tensor, data: Tensor) -> Tensor:
    """Velocity of the straight path, constant in t. Paper eq. 1. noise, data and result: (B, C, *spatial)."""
    return data - noise


class StraightPath(ProbabilityPath):
    """Every stage goes straight from its own noise to its data, X_t = t·X_1 + (1 − t)·X_0. Paper eq. 3."""

    def at(self, data: Sequence[Tensor], noise: Sequence[Tensor], t: Tensor) -> tuple[Stages, Stages]:
        """Return noisy stages and velocities, S tensors of the shapes of data: see `ProbabilityPath.at`."""
        pairs = list(zip(noise, data, strict=True))
        noisy = tuple(interpolate(n, x, t[:, index]) for index, (n, x) in enumerate(pairs))
        return noisy, tuple(velocity_target(n, x) for n, x in pairs)

    def moments(self, t: Tensor, stage_sigmas: Tensor) -> Moments:
        """Return moments of the shape of t, (..., S): see `ProbabilityPath.moments`."""
        square = stage_sigmas.square()
        return Moments(
            noisy=(t * stage_sigmas).square() + (1 - t).square(),
            cross=t * square - (1 - t),
            velocity=(1 + square).expand_as(t),
            gram_root=stage_sigmas.expand_as(t),
        )


def stage_errors(velocities: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean squared error of each sample and stage, (B, S) float32, unmasked; mean over the elements of a stage.

    velocities, targets: S tensors (B, C_s, *spatial_s).
    """
    return torch.stack(
        [
            (v.float() - target.float()).square().flatten(1).mean(1)
            for v, target in zip(velocities, targets, strict=True)
        ],
        dim=1,
    )


def masked_velocity_loss(errors: Tensor, trained: Tensor) -> Tensor:
    """Sum of the errors over trained stages, mean over the batch: the scalar loss of paper eq. 4.

    errors: (B, S) from `stage_errors`. trained: (B, S) bool. Untrained stages are selected away, not multiplied by
    zero, so that a non-finite value there cannot reach the loss.
    """
    return torch.where(trained, errors, errors.new_zeros(())).sum(1).mean()
