"""Plain flow matching beside a model: the same network on the whole picture, at the finest stage's size."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from dfm_core.assembly import Assembler, stage_layout
from dfm_core.batch_shares import WHOLE
from dfm_core.composition import Composition
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.interfaces.timestep_sampler import TimestepDraw, TimestepSampler, TimestepSamplerFacts
from dfm_core.objective import FlowObjective
from dfm_core.plugins import Options
from dfm_core.preconditioning import VelocityModel
from dfm_core.residual_pyramid import ResidualPyramid
from dfm_core.stage_space import StageSpace
from dfm_core.stages import Size


class Undivided(ResidualPyramid):
    """One stage, the picture itself."""

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Return x: there is no other size."""
        return x

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Return x: there is no other size."""
        return x


class OneTimestep(TimestepSampler):
    """t uniform in [0, 1], for one stage."""

    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        """Draw (B, 1)."""
        seen = torch.ones(batch_size, 1, dtype=torch.bool)
        return TimestepDraw(torch.rand(batch_size, 1, generator=generator), seen, seen)

    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        """The one stage is always visible."""
        return {(True,): 1.0}


def plain_objective(assembler: Assembler, composition: Composition) -> FlowObjective:
    """Loss of plain flow matching with the backbone that the configuration names, built for one stage."""
    finest = composition.space.decomposition.facts.stage_sizes[-1]
    decomposition = Undivided(Options(), DecompositionFacts((finest,), composition.space.autoencoder.channels))
    backbone = assembler.backbone(stage_layout(decomposition), composition.data)
    model = VelocityModel(backbone, composition.config.flow.preconditioning, (1.0,)).to(composition.device)
    objective = copy.copy(composition.objective())
    objective.model = model
    objective.space = StageSpace(composition.space.autoencoder, decomposition, (1.0,))
    objective.batch_shares = WHOLE
    objective.timestep_sampler = OneTimestep(Options(), TimestepSamplerFacts(1, composition.grid))
    return objective
