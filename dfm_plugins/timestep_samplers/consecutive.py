"""One stage at a time: what Pyramidal Flow trains on."""

from __future__ import annotations

import torch

from dfm_core.interfaces.timestep_sampler import TimestepDraw, TimestepSampler, TimestepSamplerFacts
from dfm_plugins.timestep_samplers.active_stages import draw_index, resolve_probabilities
from dfm_plugins.timestep_samplers.specs import ConsecutiveOptions


class ConsecutiveSampler(TimestepSampler):
    """A stage from `stage_probs`, alone visible and trained, at a uniform t. Jin et al. 2024.

    Order of the draws: the stage from B float64 uniforms (none for one stage), then t from B float32 uniforms.
    """

    options: ConsecutiveOptions

    def __init__(self, options: ConsecutiveOptions, facts: TimestepSamplerFacts) -> None:
        super().__init__(options, facts)
        probabilities = options.stage_probs or default_probabilities(facts.num_stages)
        self._probabilities = resolve_probabilities(probabilities, facts.num_stages)

    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        """Draw for `batch_size` samples."""
        stage = draw_index(self._probabilities, batch_size, generator)
        t = torch.rand(batch_size, 1, generator=generator)
        visible = torch.arange(self.facts.num_stages) == stage[:, None]
        return TimestepDraw(torch.where(visible, t, 0.0), visible, visible)

    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        """`stage_probs`, by set."""
        stages = range(self.facts.num_stages)
        return {
            tuple(stage == other for other in stages): probability
            for stage, probability in zip(stages, self._probabilities, strict=True)
            if probability > 0
        }


def default_probabilities(num_stages: int) -> tuple[float, ...]:
    """Return 1 : 2 : … : 2 : 1, normalised."""
    weights = [1, *[2] * (num_stages - 2), 1][:num_stages]
    return tuple(weight / sum(weights) for weight in weights)
