"""Uniform over the number of active stages and over their timesteps."""

from __future__ import annotations

import torch

from dfm_core.interfaces.timestep_sampler import TimestepDraw, TimestepSampler
from dfm_plugins.timestep_samplers.active_stages import draw_index, prefix_draw, prefix_probabilities


class UniformSampler(TimestepSampler):
    """k uniform on 1…S, t of the first k stages independent and uniform, 0 beyond.

    Order of the draws: k from B float64 uniforms (none for one stage), then B × S float32 uniforms.
    """

    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        """Draw for `batch_size` samples; all active stages are trained."""
        current = draw_index(self._probabilities(), batch_size, generator)
        return prefix_draw(torch.rand(batch_size, self.facts.num_stages, generator=generator), current)

    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        """1/S for each number of active stages."""
        return prefix_probabilities(self._probabilities())

    def _probabilities(self) -> tuple[float, ...]:
        return (1 / self.facts.num_stages,) * self.facts.num_stages
