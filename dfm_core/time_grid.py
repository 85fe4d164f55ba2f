"""How the frames of a clip are split: each on its own, together, or the first on its own and the others together.

A *plain* time grid relates the frame counts of two stages by a ratio, T_fine = r·T_coarse; a *causal* one, as of video
autoencoders, those of the frames after the first: T_fine − 1 = r·(T_coarse − 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dfm_core.errors import StageSizeError
from dfm_core.stages import Size, format_size

Transform = Callable[[Sequence[Tensor], Sequence[Size]], Sequence[Tensor]]
"""From tensors (B, C, *spatial) and the sizes of all stages to tensors."""


def is_clip(sizes: Sequence[Size]) -> bool:
    """Whether sizes are (frames, height, width)."""
    return len(sizes[-1]) == 3


def is_causal(time_grid: str, sizes: Sequence[Size]) -> bool:
    """Whether stages of these sizes divide time causally; False where all have the same number of frames.

    time_grid: "plain", "causal" or "auto": causal where the frame counts less one divide, one by the next, and the
    counts do not. Raises StageSizeError for a causal grid that begins with one frame and ends with more.
    """
    frames = [size[0] for size in sizes] if is_clip(sizes) else [1]
    if frames[0] == frames[-1] or time_grid == "plain":
        return False
    if time_grid == "auto":
        return not _divide(frames) and _divide([count - 1 for count in frames])
    if frames[0] == 1:
        shown = ", ".join(map(format_size, sizes))
        raise StageSizeError(
            f"on a causal time grid a stage of one frame says nothing of the others, got {shown}; begin with "
            f"{format_size((2, *sizes[0][1:]))} or more frames, or use time_grid=plain"
        )
    return True


def plain_sizes(sizes: Sequence[Size], causal: bool) -> list[Size]:
    """Sizes at which the frames are split that are split together.

    Without the first frame on a causal grid; (height, width) where every frame is split on its own.
    """
    if not is_clip(sizes):
        return list(sizes)
    if causal and sizes[-1][0] > 1:
        return [(size[0] - 1, *size[1:]) for size in sizes]
    return [size[1:] for size in sizes] if sizes[0][0] == sizes[-1][0] else list(sizes)


def on_frames(transform: Transform, tensors: Sequence[Tensor], sizes: Sequence[Size], causal: bool) -> list[Tensor]:
    """Apply `transform` to images and to clips whose frames are split together; put the results together in time.

    tensors: (B, C, *spatial), of clips with the frames first. sizes: of the previews of all stages.
    """
    if not is_clip(sizes):
        return list(transform(tensors, sizes))
    if causal and sizes[-1][0] > 1:
        first = on_frames(transform, [x[:, :, :1] for x in tensors], _first_frame(sizes), False)
        others = on_frames(transform, [x[:, :, 1:] for x in tensors], plain_sizes(sizes, causal), False)
        return [torch.cat(pair, dim=2) for pair in zip(first, others, strict=True)]
    if sizes[0][0] != sizes[-1][0]:
        return list(transform(tensors, sizes))
    images = transform([x.movedim(2, 1).flatten(0, 1) for x in tensors], plain_sizes(sizes, causal))
    batch = (len(tensors[0]), sizes[-1][0])
    return [image.unflatten(0, batch).movedim(1, 2).contiguous() for image in images]


def shape_on_frames(
    shape_of: Callable[[Sequence[Size]], tuple[int, ...]], sizes: Sequence[Size], causal: bool
) -> tuple[int, ...]:
    """Shape (C_s, *spatial_s) of what `on_frames` puts together. shape_of: gives that of an image or a plain clip.

    Raises StageSizeError where the first frame's tensor does not fit to the others'.
    """
    if not is_clip(sizes):
        return shape_of(sizes)
    if causal and sizes[-1][0] > 1:
        first = shape_on_frames(shape_of, _first_frame(sizes), False)
        others = shape_of(plain_sizes(sizes, causal))
        if (first[0], *first[2:]) != (others[0], *others[2:]):
            raise StageSizeError(
                "on a causal time grid the coefficients of the first frame do not fit to those of the others: "
                f"{format_size(first)} and {format_size(others)} (channels first); use domain=spatial, "
                "frame counts that divide (4 of 8) or as many frames in every stage"
            )
        return (others[0], 1 + others[1], *others[2:])
    if sizes[0][0] != sizes[-1][0]:
        return shape_of(sizes)
    channels, *spatial = shape_of(plain_sizes(sizes, causal))
    return (channels, sizes[-1][0], *spatial)


def _first_frame(sizes: Sequence[Size]) -> list[Size]:
    return [(1, *size[1:]) for size in sizes]


def _divide(counts: Sequence[int]) -> bool:
    """Whether each count divides the next."""
    return all(coarse > 0 and fine % coarse == 0 for coarse, fine in pairwise(counts))
