"""`video_dit`: the transformer of `dit` over the tokens of all frames of a clip."""

from __future__ import annotations

from dfm_core.interfaces.backbone import BackboneFacts
from dfm_core.stages import Size
from dfm_plugins.backbones.blocks import Groups
from dfm_plugins.backbones.clip_patching import choose_clip_patching
from dfm_plugins.backbones.specs import ClipOptions
from dfm_plugins.backbones.transformer import StageTransformer


class VideoDiT(StageTransformer):
    """Diffusion transformer of clips (C, T, H, W), frame by frame one sequence; `dit` is the case of one frame.

    Each frame is patchified on its own, or `temporal_patch` frames together; stages with fewer frames have shorter
    patches in time, so that all give the same token grid. In a causal grid of 1 + k·n frames the first frame is the
    last of a patch whose other frames are zeros, so a clip of one frame, an image, always fits.
    `attention=full`: every token attends to all of the clip. `factorised`: blocks attend by turns within a frame (the
    first block) and along time at one place, with weights of the same shapes (Latte, Ma et al. 2024, variant 1).
    Absolute positions count time from the first frame. A `rope_split` without time is that of `dit`, also in names and
    shapes of the weights: for one frame, with `attention=full`, both compute the same.
    """

    options: ClipOptions

    def __init__(self, options: ClipOptions, facts: BackboneFacts) -> None:
        patching = choose_clip_patching(facts.layout, options.token_grid, options.patch_size, options.temporal_patch)
        super().__init__(options, facts, patching, options.axes)

    def groups(self, block_index: int, grid: Size) -> Groups | None:
        """All tokens, or by turns those of a frame and those of a place."""
        if self.options.attention == "full":
            return None
        frames, rows, columns = grid
        return Groups(frames, rows * columns, along_time=block_index % 2 == 1)
