"""What the tests of metrics of clips share: things that move, and clips that move wrongly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def moving_clips(count: int, seed: int, frames: int = 8, side: int = 16, speed: float = 1.0) -> Tensor:
    """Clips (count, 3, frames, side, side) of a smooth texture each, which moves right by `speed` pixels a frame."""
    generator = torch.Generator().manual_seed(seed)
    width = side + round(speed * frames)
    noise = torch.randn(count, 3, side // 4, width // 4, generator=generator)
    texture = 0.5 * F.interpolate(noise, (side, width), mode="bicubic", align_corners=False)
    starts = [round(speed * frame) for frame in range(frames)]
    return torch.stack([texture[..., width - side - start :][..., :side] for start in starts], 2).clamp(-1, 1)


def in_another_order(clips: Tensor, seed: int = 0) -> Tensor:
    """The same frames, those of each clip shuffled."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(clips.shape[2], generator=generator) for _ in clips]
    return torch.stack([clip[:, order] for clip, order in zip(clips, orders, strict=True)])


def frozen(clips: Tensor) -> Tensor:
    """Every clip is its first frame."""
    return clips[:, :, :1].expand_as(clips).contiguous()
