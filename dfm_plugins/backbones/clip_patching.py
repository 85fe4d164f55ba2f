"""The choice of patches for clips: those of one frame, and how many frames they span in each stage."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dfm_core.errors import CompositionError, StageSizeError
from dfm_core.stages import StageLayout, StageShape
from dfm_plugins.backbones.token_grid import DEFAULT_TOKENS, FEWEST_TOKENS, Patching, choose_patching

CLIP_TOKENS = 8
"""Most tokens along the short side that are taken unasked where there are several frames: attention is to all."""


def choose_clip_patching(
    layout: StageLayout, token_grid: int | None, patch_size: int | None, temporal_patch: int | None
) -> Patching:
    """Return the patches for stages of this layout, which must be clips (C, T, H, W).

    token_grid, patch_size: as `choose_patching` takes them. temporal_patch: frames in a patch of the finest stage; None
    for the most tokens. Raises StageSizeError that names the values that work, CompositionError for other than clips.
    """
    if any(len(stage.shape) != 4 for stage in layout):
        raise CompositionError(
            "video_dit takes clips, stages of shape (C, T, H, W); got "
            f"{', '.join(str(stage.shape) for stage in layout)}: say how many frames, or use the backbone dit"
        )
    frames = [stage.shape[1] for stage in layout]
    pictures = StageLayout(
        tuple(StageShape(stage.resolution[-2:], (stage.shape[0], *stage.shape[2:])) for stage in layout)
    )
    most = DEFAULT_TOKENS if max(frames) == 1 else CLIP_TOKENS
    space = choose_patching(pictures, token_grid, patch_size, most)
    tokens, lengths = _choose_lengths(frames, temporal_patch)
    patches = tuple((length, *patch) for length, patch in zip(lengths, space.patches, strict=True))
    return Patching(patches, (tokens, *space.grid))


def possible_lengths(frames: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Return each (tokens along time, frames in a patch of each stage) that all stages can share, fewest tokens first.

    Plain grids, of whole patches, and causal ones, in which the first frame has a token of its own; of equally many
    tokens the plain one is last. Never empty.
    """
    plain = [(count, tuple(length // count for length in frames)) for count in _divisors(math.gcd(*frames))]
    rest = [length - 1 for length in frames]
    causal = [(count + 1, tuple(length // count for length in rest)) for count in _divisors(math.gcd(*rest))]
    # A stage of one frame has nothing after its first.
    found = {choice for choice in (*causal, *plain) if min(choice[1])}
    return sorted(found, key=lambda choice: (choice[0], choice in plain))


def _choose_lengths(frames: Sequence[int], temporal_patch: int | None) -> tuple[int, tuple[int, ...]]:
    choices = possible_lengths(frames)
    shown = ", ".join(map(str, frames))
    works = ", ".join(map(str, sorted({lengths[-1] for _, lengths in choices})))
    if temporal_patch is not None:
        for choice in reversed(choices):
            if choice[1][-1] == temporal_patch:
                return choice
        raise StageSizeError(
            f"temporal_patch={temporal_patch} does not fit stages of {shown} frames: use temporal_patch {works}, "
            "or leave it out"
        )
    tokens, lengths = choices[-1]
    if tokens < min(FEWEST_TOKENS, *frames):
        raise StageSizeError(
            f"stages of {shown} frames have at most {tokens} tokens along time in common: use frame counts that share "
            "a larger divisor, plainly or each without its first frame, or say "
            f"temporal_patch={lengths[-1]} if that is meant"
        )
    return tokens, lengths


def _divisors(number: int) -> list[int]:
    return [count for count in range(1, number + 1) if number % count == 0]
