"""A clean batch to its loss: all that the trainer calls."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dfm_core.batch_shares import WHOLE, BatchShares
from dfm_core.flow import masked_velocity_loss, stage_errors
from dfm_core.interfaces.backbone import Conditioning
from dfm_core.interfaces.timestep_sampler import TimestepDraw, TimestepSampler
from dfm_core.loss_report import LossReport
from dfm_core.preconditioning import VelocityModel
from dfm_core.randomness import BatchRandomness
from dfm_core.stage_space import StageSpace
from dfm_core.stages import Stages

RANGES_OF_T = 10
"""Into how many equal ranges of t the reported losses are split."""


class FlowObjective:
    """The DFM loss of paper eq. 4.

    images → stages → timesteps and masks → noisy stages → velocities → masked mean squared error, on the model's path.
    Also drops labels, for guidance: the network only ever sees a label or `null_label`.
    """

    def __init__(
        self,
        model: VelocityModel,
        space: StageSpace,
        timestep_sampler: TimestepSampler,
        null_label: int,
        label_dropout: float,
        batch_shares: BatchShares = WHOLE,
    ) -> None:
        self.model = model
        self.space = space
        self.timestep_sampler = timestep_sampler
        self.null_label = null_label
        self.label_dropout = label_dropout
        self.batch_shares = batch_shares

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts of the loss that are reported: one a stage."""
        return tuple(f"stage_{index + 1}" for index in range(self.space.decomposition.num_stages))

    def __call__(self, batch: dict[str, Tensor], randomness: BatchRandomness) -> LossReport:
        """Return the loss of a batch {"image", "video" or "latent": (B, C, *spatial), "label": (B,)}.

        With `batch_shares` that of its first rows alone: the others are not even encoded.
        """
        device = next(iter(batch.values())).device
        drawn = self.timestep_sampler.sample(randomness.total, randomness.shared("timesteps"))
        batch, randomness = self._kept(batch, randomness, drawn)
        draw = own_part(drawn, randomness, device)
        data = self.space.batch_to_stages(batch, randomness.own("latents", device))
        noisy, targets = self.model.path.at(data, draw_noise(data, randomness), draw.t)
        velocities = self.model(noisy, draw.t, draw.visible, self._conditioning(batch.get("label"), randomness))
        errors = stage_errors(velocities, targets)
        by_t = sums_by_t(errors, draw)
        return LossReport(masked_velocity_loss(errors, draw.trained), by_t.sum(2), self.part_names, by_t)

    def _kept(
        self, batch: dict[str, Tensor], randomness: BatchRandomness, drawn: TimestepDraw
    ) -> tuple[dict[str, Tensor], BatchRandomness]:
        """The rows that are trained, with their randomness."""
        size = randomness.stop - randomness.start
        rows = self.batch_shares.rows(size, drawn.visible[0])
        if rows == size:
            return batch, randomness
        return {name: value[:rows] for name, value in batch.items()}, randomness.first(rows)

    def _conditioning(self, label: Tensor | None, randomness: BatchRandomness) -> Conditioning:
        if label is None:
            return Conditioning()
        drawn = torch.rand(randomness.total, generator=randomness.shared("label dropout"))
        dropped = randomness.part(drawn < self.label_dropout).to(label.device, non_blocking=True)
        return Conditioning(torch.where(dropped, self.null_label, label))


def own_part(drawn: TimestepDraw, randomness: BatchRandomness, device: torch.device) -> TimestepDraw:
    """This part of what was drawn for the step's global batch, so that how a batch is split changes nothing."""
    parts = (randomness.part(x).to(device, non_blocking=True) for x in (drawn.t, drawn.visible, drawn.trained))
    return TimestepDraw(*parts)


def draw_noise(like: Sequence[Tensor], randomness: BatchRandomness) -> Stages:
    """Gaussian noise in the shapes of `like`, drawn on its device."""
    generator = randomness.own("noise", like[0].device)
    return tuple(torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype) for x in like)


def sums_by_t(errors: Tensor, draw: TimestepDraw) -> Tensor:
    """Sums (row 0) and counts (row 1) of each stage's errors where it is trained, by its t, (2, S, RANGES_OF_T)."""
    ranges = torch.arange(RANGES_OF_T, device=errors.device)
    own = (draw.t * RANGES_OF_T).long().clamp(max=RANGES_OF_T - 1)
    counted = (own[..., None] == ranges) & draw.trained[..., None]
    # Selected, not multiplied: NaN · 0 is NaN.
    sums = torch.where(counted, errors.detach()[..., None], 0).sum(0)
    return torch.stack([sums, counted.sum(0).to(errors.dtype)])
