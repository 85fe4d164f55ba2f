"""`pyramid_dit`: one transformer that meets every stage alone, with as many tokens as the stage has patches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dfm_core.errors import CompositionError
from dfm_core.interfaces.backbone import Backbone, BackboneFacts, Conditioning
from dfm_core.stages import Size, StageLayout, Stages, StageShape, format_size, pick, put, rows_where
from dfm_plugins.backbones.medium import transformer_for
from dfm_plugins.backbones.specs import PyramidDiTOptions


class PyramidDiT(Backbone):
    """A plain DiT, built for the finest stage and called once for each stage that is visible somewhere in the batch.

    Of clips it is a video DiT, over all frames of the stage. All weights are shared, and stages do not see each other.
    Absolute positions cover the same area at every size. The network is not told which stage it meets: its path's time
    says that (Pyramidal Flow's clock runs on from one stage to the next), and the number of tokens.
    """

    options: PyramidDiTOptions
    splits_batch = True

    def __init__(self, options: PyramidDiTOptions, facts: BackboneFacts) -> None:
        super().__init__(options, facts)
        channels = {stage.shape[0] for stage in facts.layout}
        sides = {length for stage in facts.layout for length in stage.shape[-2:]}
        if len(channels) > 1 or any(length % options.patch_size for length in sides):
            shapes = ", ".join("x".join(map(str, stage.shape)) for stage in facts.layout)
            raise CompositionError(
                f"pyramid_dit: expected stages of the same channels, in sizes that the patch of {options.patch_size} "
                f"divides, got {shapes}; use the decomposition downsampled, or another patch_size"
            )
        self.network = transformer_for(options, replace(facts, layout=StageLayout(facts.layout.stages[-1:])))
        self.grids = [self._grid(stage) for stage in facts.layout]

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        """Return the velocities in the shapes and dtype of `noisy_stages`, zero where a stage is invisible."""
        velocities = []
        for index, stage in enumerate(noisy_stages):
            rows = rows_where(visible[:, index], stage.device)
            velocity = torch.zeros_like(stage)
            if len(rows):
                (part,), (time,) = pick([stage], rows), pick([t[:, index : index + 1]], rows)
                seen = torch.ones_like(time, dtype=torch.bool)
                (part,) = self.network((part,), time, seen, conditioning.at(rows))
                velocity = put(velocity, rows, part)
            velocities.append(velocity)
        return tuple(velocities)

    def weight_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Those of the network."""
        return self.network.weight_groups()

    def describe(self) -> dict[str, str]:
        """The token grid of each stage at the training size, and the patch."""
        tokens = ", ".join(f"{'x'.join(map(str, grid))} = {math.prod(grid)}" for grid in self.grids)
        return {"tokens": tokens, "patch": format_size(self.network.patching.patches[0])}

    def _grid(self, stage: StageShape) -> Size:
        """Token grid of one stage. Raises CompositionError for frames that its patch does not divide."""
        grid = self.network.patching.grid_of([stage.shape[1:]])
        if grid is None:
            raise CompositionError(
                f"pyramid_dit: temporal_patch={self.options.temporal_patch} does not fit a stage of {stage.shape[1]} "
                "frames: use a divisor of it, or of the frames after the first"
            )
        return grid
