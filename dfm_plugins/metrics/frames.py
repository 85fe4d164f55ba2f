"""What metrics of clips share: which frames are looked at, and clips as frames."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from dfm_core.interfaces.metric import MetricFacts


def is_of_clips(facts: MetricFacts) -> bool:
    """Whether what is measured has frames."""
    return len(facts.size) == 3


def noun_of(facts: MetricFacts) -> str:
    """What is measured, as prose."""
    return "clips" if is_of_clips(facts) else "images"


def spread(length: int, count: int | None) -> list[int]:
    """Numbers of `count` of `length` frames at equal distances, the first and the last among them; None: of all.

    With more than there are, some come twice, in their order. One: the middle.
    """
    if count is None:
        return list(range(length))
    if count == 1:
        return [length // 2]
    return torch.linspace(0, length - 1, count, dtype=torch.float64).round().long().tolist()


def as_frames(images: Tensor) -> Tensor:
    """Images (B, C, H, W) as they are; clips (B, C, T, H, W) as their frames (B·T, C, H, W), one clip's in a row."""
    return images if images.ndim == 4 else rearrange(images, "b c t h w -> (b t) c h w")
