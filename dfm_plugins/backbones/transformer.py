"""What `dit` and `video_dit` share: a transformer in which all stages have one token grid and all blocks in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfm_core.errors import StageShapeError
from dfm_core.interfaces.backbone import Backbone, BackboneFacts, Conditioning
from dfm_core.stages import Size, StageLayout, Stages, format_size
from dfm_plugins.backbones.blocks import Block, Groups, normalize
from dfm_plugins.backbones.embedders import LabelEmbedder, StageIndexEmbedder
from dfm_plugins.backbones.initialization import initialize_adaln_zero
from dfm_plugins.backbones.positions import Rotation, remembered, rotary_table, sincos_table
from dfm_plugins.backbones.specs import TransformerOptions
from dfm_plugins.backbones.stage_io import StageEnd, StageIO
from dfm_plugins.backbones.token_grid import Patching


class StageTransformer(Backbone):
    """Diffusion transformer with an input, a clock and a head for each stage.

    Tokens and timestep embeddings are summed over the visible stages; adaLN-zero blocks, listed in `blocks`, follow.
    patching: of all stages. rope_split: frequencies of each axis of the token grid, in sum half a head's features; the
    features of absolute positions are shared out alike. Absolute positions in a picture are centred, and scaled alike
    on both axes so that any grid covers the area of the training grid.
    """

    options: TransformerOptions

    def __init__(
        self, options: TransformerOptions, facts: BackboneFacts, patching: Patching, rope_split: tuple[int, ...]
    ) -> None:
        super().__init__(options, facts)
        depth, width, heads = options.dimensions
        self.patching = patching
        self.rope_split = rope_split
        self.sincos_split = tuple(heads * count for count in rope_split)
        self.stages = stage_ends(facts.layout, patching, width)
        # One stage needs no index: plain DiT.
        self.stage_index = StageIndexEmbedder(len(facts.layout), width) if len(facts.layout) > 1 else None
        self.label = LabelEmbedder(facts.num_classes, width) if facts.num_classes else None
        self.blocks = nn.ModuleList(Block(width, heads, options.mlp_ratio, options.qk_norm) for _ in range(depth))
        self.initialize()

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        """Return the velocities in the shapes and dtype of `noisy_stages`; zero at initialisation.

        Where no gradient is asked for, what belongs to stages that no sample sees is left out, and zero. Raises
        StageShapeError for stages that do not give one token grid.
        """
        self.check_channels(noisy_stages)
        return self.run(self._stages(), self.patching, noisy_stages, t, visible, conditioning)

    def run(
        self,
        stages: Sequence[StageIO],
        patching: Patching,
        noisy_stages: Sequence[Tensor],
        t: Tensor,
        visible: Tensor,
        conditioning: Conditioning,
    ) -> Stages:
        """The velocities of `noisy_stages`, which go in, keep time and come out by `stages`, in patches of `patching`.

        One of each for every noisy stage; the rest is as in `forward`.
        """
        grid = patching.grid_at(noisy_stages)
        shown = self._shown(visible)
        ends = [StageEnd(stages[s], patching.patches[s], noisy_stages[s], t[:, s], visible[:, s]) for s in shown]
        condition = F.silu(self._condition(ends, visible, conditioning))
        tokens = self._tokens(ends, grid)
        rotation = self.rotation(grid, tokens)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, condition, rotation, self.groups(index, grid))
        tokens = normalize(tokens)
        velocities = {s: end.velocity(tokens, condition) for s, end in zip(shown, ends, strict=True)}
        return tuple(
            velocities[s] if s in velocities else torch.zeros_like(noisy) for s, noisy in enumerate(noisy_stages)
        )

    def groups(self, block_index: int, grid: Size) -> Groups | None:
        """Which tokens attend to each other in a block (from 0); None, as here, for all to all."""
        return None

    def rotation(self, grid: Size, like: Tensor) -> Rotation:
        """Rotary positions of the tokens of a grid, on the device of `like`."""
        return remembered(rotary_table, grid, self.rope_split, like=like)

    def describe(self) -> dict[str, str]:
        """The token grid at the training size, and each stage's patch."""
        grid = self.patching.grid
        return {
            "tokens": f"{'x'.join(map(str, grid))} = {math.prod(grid)}",
            "patches": ", ".join(map(format_size, self.patching.patches)),
        }

    def shardable_blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks."""
        return list(self.blocks)

    def stage_parameters(self) -> Sequence[Sequence[nn.Parameter]]:
        """Each stage's patch embedding, timestep embedding and head."""
        return [list(stage.parameters()) for stage in self.stages]

    def weight_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """The parts of the blocks, and what the stages and the condition bring."""
        stages = [part for part in self.modules() if isinstance(part, StageIO)]
        blocks = [cast(Block, block) for block in self.blocks]
        embedders = [*(stage.timestep_embedder for stage in stages), self.stage_index, self.label]
        groups: dict[str, Sequence[nn.Module | None]] = {
            "modulation": [block.modulation for block in blocks],
            "projection": [part for stage in stages for part in (stage.patch_embedding, stage.head)],
            "conditioning": embedders,
            "attention": [block.attention for block in blocks],
            "mlp": [block.mlp for block in blocks],
        }
        return {
            name: [parameter for module in modules if module is not None for parameter in module.parameters()]
            for name, modules in groups.items()
        }

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew; needed after moving a network built on the meta device to a real one."""
        initialize_adaln_zero(self, generator)

    def check_channels(self, noisy_stages: Sequence[Tensor]) -> None:
        """Raise StageShapeError unless there are as many stages as in the layout, with their channels."""
        layout = self.facts.layout
        if [stage.shape[1] for stage in noisy_stages] != [stage.shape[0] for stage in layout]:
            raise StageShapeError(
                f"expected {len(layout)} stages with {', '.join(str(stage.shape[0]) for stage in layout)} channels, "
                f"got {', '.join(str(tuple(stage.shape)) for stage in noisy_stages)}"
            )

    def _shown(self, visible: Tensor) -> Sequence[int]:
        """Stages that have to be computed: in training all, so that every step runs the same layers."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or visible.is_meta:
            return range(visible.shape[1])
        seen = visible.any(0).tolist()
        return [index for index, shown in enumerate(seen) if shown] or [0]

    def _condition(self, ends: Sequence[StageEnd], visible: Tensor, conditioning: Conditioning) -> Tensor:
        """Sum of the timestep, stage and label embeddings, (B, width)."""
        condition = torch.stack([end.clock() for end in ends]).sum(0)
        if self.stage_index is not None:
            condition = condition + self.stage_index(visible)
        return condition if self.label is None else condition + self.label(conditioning.label)

    def _tokens(self, ends: Sequence[StageEnd], grid: Size) -> Tensor:
        """Sum of the patch embeddings over the visible stages, with absolute positions, (B, tokens, width)."""
        embedded = [end.tokens() for end in ends]
        tokens = sum(embedded[1:], embedded[0])
        if self.options.positions == "rope":
            return tokens
        scale = math.sqrt(math.prod(self.patching.grid[-2:]) / math.prod(grid[-2:]))
        return tokens + remembered(sincos_table, grid, self.sincos_split, scale, like=tokens).to(tokens.dtype)

    def _stages(self) -> Sequence[StageIO]:
        return cast(Sequence[StageIO], self.stages)


def stage_ends(layout: StageLayout, patching: Patching, width: int) -> nn.ModuleList:
    """What the stages of a patching own: the first ones of the layout."""
    # Not strict: the patching may be of a prefix.
    pairs = zip(layout, patching.patches, strict=False)
    return nn.ModuleList(StageIO(stage.shape[0] * math.prod(patch), width) for stage, patch in pairs)
