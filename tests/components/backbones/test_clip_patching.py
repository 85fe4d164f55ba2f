"""Patches of clips: how many frames they span, and that cutting into them loses nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfm_core.errors import StageSizeError
from dfm_core.stages import StageLayout, StageShape
from dfm_plugins.backbones.clip_patching import choose_clip_patching, possible_lengths
from dfm_plugins.backbones.stage_io import patchify, unpatchify
from dfm_plugins.backbones.token_grid import Patching


def layout(*sizes: tuple[int, int, int]) -> StageLayout:
    return StageLayout(tuple(StageShape(size, (3, *size)) for size in sizes))


def choose(frames: tuple[int, ...], temporal_patch: int | None = None) -> Patching:
    return choose_clip_patching(layout(*((count, 8, 8) for count in frames)), None, None, temporal_patch)


@pytest.mark.parametrize(
    ("frames", "temporal_patch", "lengths", "tokens"),
    [
        ((8,), None, (1,), 8),
        ((8, 8), None, (1, 1), 8),
        ((8, 8), 2, (2, 2), 4),
        ((4, 8), None, (1, 2), 4),
        ((4, 8), 4, (2, 4), 2),
        ((2, 4, 8), None, (1, 2, 4), 2),
        ((1, 8), None, (1, 8), 1),
        ((1, 1), None, (1, 1), 1),
        # Causal: 1 + 4, 1 + 8; and equal counts of 1 + 4.
        ((5, 9), None, (1, 2), 5),
        ((5, 9), 4, (2, 4), 3),
        ((5, 5), 2, (2, 2), 3),
        ((3, 5, 9), None, (1, 2, 4), 3),
        ((13, 25), None, (1, 2), 13),
        # Both 3 = 3·1, 9 = 3·3 and 3 = 1 + 2·1, 9 = 1 + 2·4 have three tokens: plain unless the patch says otherwise.
        ((3, 9), None, (1, 3), 3),
        ((3, 9), 4, (1, 4), 3),
    ],
)
def test_stages_share_the_most_tokens_along_time(
    frames: tuple[int, ...], temporal_patch: int | None, lengths: tuple[int, ...], tokens: int
) -> None:
    patching = choose(frames, temporal_patch)
    assert tuple(patch[0] for patch in patching.patches) == lengths
    assert patching.grid == (tokens, 8, 8)
    assert {patch[1:] for patch in patching.patches} == {(1, 1)}


def test_in_space_clips_have_fewer_tokens_than_images_unless_asked() -> None:
    sizes = (16, 16), (32, 32)
    assert choose_clip_patching(layout(*((1, *s) for s in sizes)), None, None, None).grid == (1, 16, 16)
    clips = layout(*((4, *s) for s in sizes))
    assert choose_clip_patching(clips, None, None, None).grid == (4, 8, 8)
    assert choose_clip_patching(clips, 16, None, 2).patches == ((2, 1, 1), (2, 2, 2))
    assert choose_clip_patching(clips, None, 2, None).grid == (4, 16, 16)


@pytest.mark.parametrize(
    ("frames", "temporal_patch", "said"),
    [
        ((8, 8), 3, "temporal_patch=3 does not fit stages of 8, 8 frames: use temporal_patch 1, 2, 4, 7, 8, or leave"),
        ((4, 8), 3, "use temporal_patch 2, 4, 7, 8, or leave it out"),
        ((6, 8), None, "6, 8 frames have at most 2 tokens along time in common: .* temporal_patch=4 if that is meant"),
        ((1, 1), 2, "use temporal_patch 1, or"),
    ],
)
def test_frame_counts_that_do_not_fit_are_refused(
    frames: tuple[int, ...], temporal_patch: int | None, said: str
) -> None:
    with pytest.raises(StageSizeError, match=said):
        choose(frames, temporal_patch)


@settings(max_examples=100, deadline=None, database=None)
@given(base=st.integers(1, 8), ratios=st.lists(st.integers(1, 3), max_size=2), causal=st.booleans())
def test_every_choice_gives_all_stages_the_same_grid(base: int, ratios: list[int], causal: bool) -> None:
    frames = [base]
    for ratio in ratios:
        frames.append(frames[-1] * ratio)
    frames = [count + causal for count in frames]
    for tokens, lengths in possible_lengths(frames):
        patching = Patching(tuple((length, 2, 1) for length in lengths), (tokens, 2, 3))
        stages = [torch.arange(float(count * 12)).reshape(1, 1, count, 4, 3) for count in frames]
        assert patching.grid_at(stages) == patching.grid
        for stage, patch in zip(stages, patching.patches, strict=True):
            patches = patchify(stage, patch)
            assert patches.shape == (1, tokens * 6, patch[0] * 2)
            assert torch.equal(unpatchify(patches, patch, stage.shape[2:]), stage)


@pytest.mark.parametrize(("frames", "length"), [(4, 2), (5, 2), (1, 4), (9, 4), (3, 1)])
def test_a_patch_is_a_box_of_the_clip(frames: int, length: int) -> None:
    clip = torch.randn(2, 3, frames, 4, 6, generator=torch.Generator().manual_seed(0))
    patches = patchify(clip, (length, 2, 3)).reshape(2, -1, 2, 2, 3, length, 2, 3)
    padded = torch.cat((torch.zeros(2, 3, -frames % length, 4, 6), clip), 2)
    for time in range(padded.shape[2] // length):
        box = padded[:, :, time * length : (time + 1) * length, 2:4, 3:6]
        assert torch.equal(patches[:, time, 1, 1], box)
