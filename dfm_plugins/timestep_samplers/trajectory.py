"""Timesteps where generation goes: points of the schedule's own grid."""

from __future__ import annotations

import torch
from torch import Tensor

from dfm_core.interfaces.timestep_sampler import TimestepDraw, TimestepSampler, TimestepSamplerFacts
from dfm_plugins.timestep_samplers.active_stages import draw_index, resolve_probabilities
from dfm_plugins.timestep_samplers.specs import TrajectoryOptions

EDGE = 1e-5
"""Distance that t keeps from 0 and 1, so that its logit is finite and the jitter works."""


class TrajectorySampler(TimestepSampler):
    """A phase from `stage_probs`, a uniform position in it, t read off the grid, a jitter on the earlier stages.

    A phase is a run of steps with the same visible stages; a schedule without progression has one. Earlier are the
    visible stages before the last visible one. Order of the draws: the phase from B float64 uniforms (none for one
    phase), the position from B float64 uniforms, then B × S float64 normals (none for one stage).
    """

    options: TrajectoryOptions

    def __init__(self, options: TrajectoryOptions, facts: TimestepSamplerFacts) -> None:
        super().__init__(options, facts)
        visible = facts.grid.visible
        changes = (visible[1:] != visible[:-1]).any(1).nonzero().flatten() + 1
        self._starts = torch.cat([changes.new_zeros(1), changes])
        self._stops = torch.cat([changes, changes.new_tensor([len(visible)])])
        self._probabilities = resolve_probabilities(options.stage_probs, len(self._starts), "phases of the schedule")

    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        """Draw for `batch_size` samples; all visible stages are trained."""
        phase = draw_index(self._probabilities, batch_size, generator)
        share = torch.rand(batch_size, generator=generator, dtype=torch.float64)
        start, stop = self._starts[phase], self._stops[phase]
        visible = self.facts.grid.visible[start]
        t = self._jittered(self._read(start + share * (stop - start)), visible, generator)
        return TimestepDraw(torch.where(visible, t, 0.0).float(), visible, visible)

    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        """Probability of the phases, by their visible stages."""
        found: dict[tuple[bool, ...], float] = {}
        for start, probability in zip(self._starts.tolist(), self._probabilities, strict=True):
            visible = tuple(self.facts.grid.visible[start].tolist())
            found[visible] = found.get(visible, 0.0) + probability
        return {visible: probability for visible, probability in found.items() if probability > 0}

    def _read(self, position: Tensor) -> Tensor:
        """t (B, S) at `position` (B,), counted in steps, between the rows of the grid."""
        before = position.long().clamp(max=self.facts.grid.num_steps - 1)
        return torch.lerp(self.facts.grid.t[before], self.facts.grid.t[before + 1], (position - before)[:, None])

    def _jittered(self, t: Tensor, visible: Tensor, generator: torch.Generator) -> Tensor:
        t = t.clamp(EDGE, 1 - EDGE)
        if self.facts.num_stages == 1:
            return t
        normal = torch.randn(t.shape, generator=generator, dtype=t.dtype)
        stage_index = torch.arange(t.shape[1])
        last = torch.where(visible, stage_index, -1).amax(1, keepdim=True)
        jittered = torch.sigmoid(torch.logit(t) + self.options.jitter * normal).clamp(EDGE, 1 - EDGE)
        return torch.where(stage_index < last, jittered, t)
