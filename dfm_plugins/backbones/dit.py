"""`dit`: a diffusion transformer of images, in which all stages share one token grid and all blocks."""

from __future__ import annotations

from dfm_core.interfaces.backbone import BackboneFacts
from dfm_plugins.backbones.specs import TransformerOptions
from dfm_plugins.backbones.token_grid import choose_patching
from dfm_plugins.backbones.transformer import StageTransformer


class DiT(StageTransformer):
    """Diffusion transformer (Peebles and Xie 2023) with an input, a clock and a head for each stage.

    The patches are square and fixed at the training size; other sizes with the same ratios give another token grid.
    Half of the frequencies of rotary positions are for rows, half for columns.
    """

    def __init__(self, options: TransformerOptions, facts: BackboneFacts) -> None:
        _, width, heads = options.dimensions
        patching = choose_patching(facts.layout, options.token_grid, options.patch_size)
        super().__init__(options, facts, patching, (width // heads // 4,) * 2)
