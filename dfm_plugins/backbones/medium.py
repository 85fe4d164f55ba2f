"""`dit` for stages of images, `video_dit` for those of clips: what networks that are made of them ask for."""

from __future__ import annotations

from dfm_core.errors import CompositionError
from dfm_core.interfaces.backbone import BackboneFacts
from dfm_core.stages import StageLayout
from dfm_plugins.backbones.clip_patching import choose_clip_patching
from dfm_plugins.backbones.dit import DiT
from dfm_plugins.backbones.specs import ClipOptions
from dfm_plugins.backbones.token_grid import Patching, choose_patching
from dfm_plugins.backbones.transformer import StageTransformer
from dfm_plugins.backbones.video_dit import VideoDiT


def transformer_for(options: ClipOptions, facts: BackboneFacts) -> StageTransformer:
    """Make the transformer of these stages. Raises CompositionError for options that it has no use for."""
    if not holds_clips(facts.layout):
        if given := options.given_of_clips:
            raise CompositionError(
                f"backbone.options.{given[0]} is an option of clips, and the stages are images: leave it out, or say "
                "how many frames (--frames)"
            )
        return DiT(options, facts)
    if options.too_small:
        raise CompositionError(f"backbone.options: {options.too_small}")
    return VideoDiT(options, facts)


def patching_for(options: ClipOptions, layout: StageLayout) -> Patching:
    """Return the patches that this transformer cuts the stages into. Raises as `choose_clip_patching` does."""
    if holds_clips(layout):
        return choose_clip_patching(layout, options.token_grid, options.patch_size, options.temporal_patch)
    return choose_patching(layout, options.token_grid, options.patch_size)


def holds_clips(layout: StageLayout) -> bool:
    """Whether all stages are clips (C, T, H, W)."""
    return all(len(stage.shape) == 4 for stage in layout)
