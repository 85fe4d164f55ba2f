"""Scaling of the network's inputs and outputs per stage: the EDM scheme (Karras et al. 2022), carried to any path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dfm_core.errors import CompositionError, ConfigError, StageShapeError
from dfm_core.flow import StraightPath, expand_to
from dfm_core.interfaces.backbone import Backbone, Conditioning
from dfm_core.interfaces.path import Moments, PathFacts, ProbabilityPath
from dfm_core.plugins.specs import Options
from dfm_core.stages import StageLayout, Stages

PreconditioningMode = Literal["edm", "unit", "none"]
SIGMA_FLOOR = 1e-3
"""Smallest root mean square that is believed: an empty stage would otherwise divide by zero."""


@dataclass(frozen=True)
class Coefficients:
    """velocity = c_skip · X_t + c_out · F(c_in · X_t, t), each of the shape of t."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor


def default_path() -> ProbabilityPath:
    """Return the path of plain flow matching on every stage; it needs to know nothing of them."""
    return StraightPath(Options(), PathFacts(StageLayout(()), (), whole_stages=False))


def preconditioning_coefficients(
    t: Tensor, stage_sigmas: Tensor, mode: PreconditioningMode, path: ProbabilityPath | None = None
) -> Coefficients:
    """Return the coefficients at times t for stages of root mean square `stage_sigmas`.

    t: (..., S) in [0, 1]. stage_sigmas: (S,), floored at 1e-3. Returns float32, or float64 for a float64 t. path: whose
    moments decide, by default the straight line.
    `edm`: F's input and target have a second moment of 1, and the skip is the best linear guess of the velocity.
    `unit`: the same without the skip. `none`: 1, 0, 1.
    """
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    sigma = stage_sigmas.to(t).clamp(min=SIGMA_FLOOR)
    moments = (path or default_path()).moments(t, sigma)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    match mode:
        case "edm":
            # E[v X] / E[X²] is the regression of v on X; the Gram determinant over E[X²] is what it leaves of E[v²].
            inverse = moments.noisy.rsqrt()
            return Coefficients(inverse, moments.cross / moments.noisy, gram_root(moments) * inverse)
        case "unit":
            return Coefficients(moments.noisy.rsqrt(), zero, moments.velocity.sqrt())
        case "none":
            return Coefficients(one, zero, one)
    raise ConfigError(f"preconditioning: expected one of {', '.join(get_args(PreconditioningMode))}, got {mode!r}")


def gram_root(moments: Moments) -> Tensor:
    """√(E[X²]·E[v²] − E[v·X]²): the path's own where it knows it, at least SIGMA_FLOOR where it must be computed."""
    if moments.gram_root is not None:
        return moments.gram_root
    determinant = moments.noisy * moments.velocity - moments.cross.square()
    return determinant.clamp(min=SIGMA_FLOOR**2).sqrt()


class VelocityModel(nn.Module):
    """A backbone with its preconditioning: what training and generation call.

    backbone: predicts F. mode: `edm`, `unit` or `none` (the velocity is F itself, bit for bit). stage_sigmas: root mean
    square of each stage as the flow sees it; kept as a buffer, so it travels with the weights. path: on which the
    stages move, by default straight lines.
    """

    stage_sigmas: Tensor

    def __init__(
        self,
        backbone: Backbone,
        mode: PreconditioningMode,
        stage_sigmas: Sequence[float] | Tensor,
        path: ProbabilityPath | None = None,
    ) -> None:
        super().__init__()
        if mode not in get_args(PreconditioningMode):
            raise ConfigError(
                f"preconditioning: expected one of {', '.join(get_args(PreconditioningMode))}, got {mode!r}"
            )
        sigmas = torch.as_tensor(stage_sigmas, dtype=torch.float32).detach().clone()
        if sigmas.ndim != 1 or not bool((torch.isfinite(sigmas) & (sigmas >= 0)).all()):
            raise CompositionError(f"expected one finite root mean square a stage, got {sigmas.tolist()}")
        self.backbone = backbone
        self.mode = mode
        self.path = path or default_path()
        self.register_buffer("stage_sigmas", sigmas)

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        """Return the velocities, float32 (float64 for float64 stages) also under autocast.

        noisy_stages: S tensors (B, C_s, *spatial_s). t: (B, S) in [0, 1]. visible: (B, S) bool; invisible stages reach
        the backbone as zeros. Raises StageShapeError if the number of stages differs from that of the statistics.
        """
        self._check(noisy_stages, t, visible)
        # Selected, not multiplied: NaN · 0 is NaN.
        shown = [torch.where(expand_to(visible[:, index], stage), stage, 0) for index, stage in enumerate(noisy_stages)]
        told = self.path.told_time(t, visible)
        if self.mode == "none":
            return tuple(_at_least_float32(output) for output in self.backbone(shown, told, visible, conditioning))
        scales = preconditioning_coefficients(t, self.stage_sigmas, self.mode, self.path)
        inputs = [_scaled(scales.c_in[:, index], stage) for index, stage in enumerate(shown)]
        outputs = self.backbone(
            [scaled.to(stage) for scaled, stage in zip(inputs, shown, strict=True)], told, visible, conditioning
        )
        return tuple(
            _scaled(scales.c_skip[:, index], stage) + _scaled(scales.c_out[:, index], output)
            for index, (stage, output) in enumerate(zip(shown, outputs, strict=True))
        )

    def _check(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor) -> None:
        want = (noisy_stages[0].shape[0], len(self.stage_sigmas)) if noisy_stages else (0, len(self.stage_sigmas))
        if len(noisy_stages) != want[1] or tuple(t.shape) != want or tuple(visible.shape) != want:
            raise StageShapeError(
                f"expected {want[1]} stages, t and visible (batch, {want[1]}); got {len(noisy_stages)} stages, "
                f"t {tuple(t.shape)}, visible {tuple(visible.shape)}"
            )


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _scaled(coefficient: Tensor, stage: Tensor) -> Tensor:
    """Multiply each sample by its coefficient (B,), in float32 at least: autocast makes outputs bfloat16."""
    return expand_to(coefficient, stage) * _at_least_float32(stage)
