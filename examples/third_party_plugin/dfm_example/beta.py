"""Beta-distributed timesteps, drawn as order statistics."""

from __future__ import annotations

import torch
from dfm_core.interfaces.timestep_sampler import TimestepDraw, TimestepSampler
from torch import Tensor

from dfm_example.plugin import BetaOptions


class BetaSampler(TimestepSampler):
    """The first k stages are active: t_k ~ Beta(α, β), and the t of each earlier one from its own Beta.

    k is 1 with the probability `first_stage`, the other numbers share the rest. Beta timesteps: Black et al. 2024 (π0).
    """

    options: BetaOptions

    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        """Draw for `batch_size` samples; all active stages are trained."""
        num_stages, options = self.facts.num_stages, self.options
        probabilities = torch.tensor(self._probabilities(), dtype=torch.float64)
        newest = torch.multinomial(probabilities, batch_size, replacement=True, generator=generator)[:, None]
        shape = (batch_size, num_stages)
        current = draw_beta(options.alpha, options.beta, shape, generator)
        earlier = draw_beta(options.earlier_alpha, options.earlier_beta, shape, generator)
        stage_index = torch.arange(num_stages)
        active = stage_index <= newest
        t = torch.where(stage_index == newest, current, earlier)
        return TimestepDraw(torch.where(active, t, 0.0), active, active)

    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        """Probability of the first 1, 2, … S stages."""
        numbers = range(self.facts.num_stages)
        return {
            tuple(stage <= newest for stage in numbers): probability
            for newest, probability in zip(numbers, self._probabilities(), strict=True)
        }

    def _probabilities(self) -> list[float]:
        others = self.facts.num_stages - 1
        return [self.options.first_stage, *[(1 - self.options.first_stage) / others] * others] if others else [1.0]


def draw_beta(alpha: int, beta: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw from Beta(α, β), float32: the α-th smallest of α + β − 1 uniforms, exact for whole numbers.

    David and Nagaraja, Order Statistics, 2003, section 2.3.
    """
    uniforms = torch.rand(*shape, alpha + beta - 1, generator=generator)
    return uniforms.kthvalue(alpha, dim=-1).values
