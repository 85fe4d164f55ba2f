"""The paper's sampler: how many stages are active, then a logit-normal t for each of them, cleaner for the earlier."""

from __future__ import annotations

from dataclasses import replace

import torch

from dfm_core.interfaces.timestep_sampler import TimestepDraw, TimestepSampler, TimestepSamplerFacts
from dfm_plugins.timestep_samplers.active_stages import (
    draw_index,
    prefix_draw,
    prefix_probabilities,
    resolve_per_stage,
    resolve_probabilities,
)
from dfm_plugins.timestep_samplers.specs import ProgressiveOptions


class ProgressiveSampler(TimestepSampler):
    """k from `stage_probs`; t_k ~ sigmoid(N(0, 1)); t_j ~ sigmoid(N(1.5, 1)) for j < k; 0 beyond. Paper algorithm 1.

    Order of the draws: k from B float64 uniforms (one with `draw: batch`, none for one stage), then B × S normals.
    So for one stage t is `sigmoid(randn(B, generator=generator))`, plain flow matching.
    """

    options: ProgressiveOptions

    def __init__(self, options: ProgressiveOptions, facts: TimestepSamplerFacts) -> None:
        super().__init__(options, facts)
        self.one_set_a_batch = options.draw == "batch"
        self._probabilities = resolve_probabilities(options.stage_probs, facts.num_stages)
        names = ("current_location", "current_scale", "earlier_location", "earlier_scale")
        self._parameters = [resolve_per_stage(getattr(options, name), facts.num_stages, name) for name in names]

    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        """Draw for `batch_size` samples; all active stages are trained, or the current one alone."""
        draws = 1 if self.options.draw == "batch" else batch_size
        current = draw_index(self._probabilities, draws, generator).expand(batch_size)
        normal = torch.randn(batch_size, self.facts.num_stages, generator=generator)
        is_current = torch.arange(self.facts.num_stages) == current[:, None]
        current_location, current_scale, earlier_location, earlier_scale = self._parameters
        location = torch.where(is_current, current_location, earlier_location)
        scale = torch.where(is_current, current_scale, earlier_scale)
        draw = prefix_draw(torch.sigmoid(location + scale * normal), current)
        if self.options.earlier_stages == "given":
            draw = replace(draw, trained=draw.visible & is_current)
        return draw if self.options.later_stages == "hidden" else replace(draw, visible=torch.ones_like(draw.visible))

    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        """`stage_probs`, by set; all stages, where the later ones are shown."""
        if self.options.later_stages == "shown":
            return {(True,) * self.facts.num_stages: 1.0}
        return prefix_probabilities(self._probabilities)

    def trained_before(self) -> frozenset[tuple[bool, ...]]:
        """Sets of which another training has taken care, where earlier stages are given."""
        if self.options.earlier_stages == "trained":
            return frozenset()
        num_stages = self.facts.num_stages
        return frozenset(
            tuple(stage <= current for stage in range(num_stages))
            for current, probability in enumerate(self._probabilities)
            if probability == 0
        )
