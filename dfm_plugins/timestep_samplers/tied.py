"""One t for all stages: flow matching on the stages as if they were one tensor."""

from __future__ import annotations

import torch

from dfm_core.interfaces.timestep_sampler import TimestepDraw, TimestepSampler
from dfm_plugins.timestep_samplers.specs import TiedOptions


class TiedSampler(TimestepSampler):
    """All stages visible and trained at the same t ~ sigmoid(N(0, 1)), from B normals. Paper table 1b."""

    options: TiedOptions

    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        """Draw for `batch_size` samples."""
        normal = torch.randn(batch_size, generator=generator)
        t = torch.sigmoid(self.options.location + self.options.scale * normal)
        active = torch.ones(batch_size, self.facts.num_stages, dtype=torch.bool)
        return TimestepDraw(t[:, None].repeat(1, self.facts.num_stages), active, active)

    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        """Every stage, always."""
        return {(True,) * self.facts.num_stages: 1.0}
