"""Transformer blocks with adaptive layer norm (adaLN-zero), independent of what the tokens stand for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from dfm_plugins.backbones.positions import Rotation, rotate
from dfm_plugins.backbones.rows import per_sample

EPSILON = 1e-6


def normalize(tokens: Tensor) -> Tensor:
    """Layer norm over the features, without weights: the modulation takes their place."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=EPSILON)


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return tokens · (1 + scale) + shift. tokens: (B, N, width). shift, scale: (B, 1, width)."""
    return torch.addcmul(shift, tokens, 1 + scale)


class HeadNorm(nn.RMSNorm):
    """RMS norm over the features of a head, in the precision of its weight (also under autocast)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., features). Returns the same shape."""
        return super().forward(x.to(self.weight.dtype))


@dataclass(frozen=True)
class Groups:
    """Which tokens of a clip attend to each other: those of one frame, or (`along_time`) those of one place.

    frames, places: the tokens are `frames` times `places`, frame by frame.
    """

    frames: int
    places: int
    along_time: bool

    def split(self, x: Tensor) -> Tensor:
        """(B, heads, frames · places, d) -> (B · groups, heads, tokens of a group, d)."""
        pattern = "b heads (t s) d -> (b s) heads t d" if self.along_time else "b heads (t s) d -> (b t) heads s d"
        return rearrange(x, pattern, t=self.frames, s=self.places)

    def join(self, x: Tensor) -> Tensor:
        """Undo `split`."""
        pattern = "(b s) heads t d -> b heads (t s) d" if self.along_time else "(b t) heads s d -> b heads (t s) d"
        return rearrange(x, pattern, t=self.frames, s=self.places)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions and, if asked, RMS-normalised queries and keys."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = HeadNorm(width // heads, eps=EPSILON) if qk_norm else nn.Identity()
        self.key_norm = HeadNorm(width // heads, eps=EPSILON) if qk_norm else nn.Identity()
        self.projection = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: Rotation, groups: Groups | None = None) -> Tensor:
        """tokens: (B, N, width). rotation: for the N tokens. groups: as for `Block`. Returns the shape of tokens."""
        query, key, value = rearrange(
            self.qkv(tokens), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads
        )
        query = rotate(self.query_norm(query), rotation).to(value.dtype)
        key = rotate(self.key_norm(key), rotation).to(value.dtype)
        if groups is not None:
            query, key, value = groups.split(query), groups.split(key), groups.split(value)
        mixed = F.scaled_dot_product_attention(query, key, value)
        if groups is not None:
            mixed = groups.join(mixed)
        return self.projection(rearrange(mixed, "b heads n d -> b n (heads d)"))


class Block(nn.Module):
    """One adaLN-zero block: attention and MLP, each shifted, scaled and gated by the condition. DiT, figure 3."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = Attention(width, heads, qk_norm)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor, condition: Tensor, rotation: Rotation, groups: Groups | None = None) -> Tensor:
        """tokens: (B, N, width). condition: (B, width), after its SiLU. Returns the shape of tokens.

        groups: of tokens that attend to each other; None for one of all.
        """
        attention_shift, attention_scale, attention_gate, mlp_shift, mlp_scale, mlp_gate = rearrange(
            per_sample(self.modulation, condition), "b (six width) -> six b 1 width", six=6
        )
        mixed = self.attention(modulate(normalize(tokens), attention_shift, attention_scale), rotation, groups)
        tokens = torch.addcmul(tokens, attention_gate, mixed)
        return torch.addcmul(tokens, mlp_gate, self.mlp(modulate(normalize(tokens), mlp_shift, mlp_scale)))
