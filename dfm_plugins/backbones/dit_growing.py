"""`dit_growing`: the transformer of `dit` with one patch throughout, so fewer tokens while fewer stages are visible."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from dfm_core.interfaces.backbone import BackboneFacts, Conditioning
from dfm_core.stages import Stages, format_size
from dfm_plugins.backbones.initialization import initialize_adaln_zero
from dfm_plugins.backbones.specs import GrowingDiTOptions
from dfm_plugins.backbones.splitting import run_by_finest_stage
from dfm_plugins.backbones.stage_io import StageIO
from dfm_plugins.backbones.token_grid import growing_patchings
from dfm_plugins.backbones.transformer import StageTransformer, stage_ends


class GrowingDiT(StageTransformer):
    """`dit` whose token grid is that of the finest visible stage, cut into patches of one size. Paper table 1e.

    While k stages are visible, those before stage k are cut into as many patches as that has, smaller ones: so each
    pair of a stage and a k has its own way in, clock and head. Blocks, labels and stage index are shared over all k.
    Those of k = S are named as in `dit`. Absolute positions cover the same area at every k. No blocks are named
    (`shardable_blocks`): they run once for each k in the batch.
    """

    options: GrowingDiTOptions
    splits_batch = True

    def __init__(self, options: GrowingDiTOptions, facts: BackboneFacts) -> None:
        _, width, heads = options.dimensions
        *earlier, last = growing_patchings(facts.layout, options.token_grid, options.patch_size)
        super().__init__(options, facts, last, (width // heads // 4,) * 2)
        self.patchings = (*earlier, last)
        self.earlier = nn.ModuleList(stage_ends(facts.layout, patching, width) for patching in earlier)
        initialize_adaln_zero(self.earlier)

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        """Return the velocities in the shapes and dtype of `noisy_stages`, zero beyond a sample's finest stage.

        Raises StageShapeError for stages that do not give one token grid.
        """
        self.check_channels(noisy_stages)
        return run_by_finest_stage(self._run_prefix, noisy_stages, t, visible, conditioning)

    def describe(self) -> dict[str, str]:
        """For each number of visible stages: the token grid at the training size, and the stages' patches."""
        grids = [patching.grid for patching in self.patchings]
        return {
            "tokens": ", ".join(f"{format_grid(grid)} = {math.prod(grid)}" for grid in grids),
            "patches": "; ".join(", ".join(map(format_size, patching.patches)) for patching in self.patchings),
        }

    def shardable_blocks(self) -> Sequence[nn.Module]:
        """None: how often a block runs depends on what is visible."""
        return ()

    def stage_parameters(self) -> Sequence[Sequence[nn.Parameter]]:
        """Each stage's ways in, clocks and heads, of all numbers of visible stages."""
        ends = [self._ends(index) for index in range(len(self.patchings))]
        return [
            [parameter for prefix in ends[stage:] for parameter in prefix[stage].parameters()]
            for stage in range(len(ends))
        ]

    def _ends(self, index: int) -> Sequence[StageIO]:
        """What belongs to the stages 0…index while they are the visible ones."""
        prefixes: list[Sequence[StageIO]] = [*self.earlier, self.stages]  # type: ignore[list-item]
        return prefixes[index]

    def _run_prefix(self, index: int, stages: Stages, t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        return self.run(self._ends(index), self.patchings[index], stages, t, visible, conditioning)


def format_grid(grid: Sequence[int]) -> str:
    """Rows × columns, written out: "16x16"."""
    return "x".join(map(str, grid))
