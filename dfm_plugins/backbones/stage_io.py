"""What each stage owns of the network: the way in, its clock, and the way out with its own modulation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from dfm_core.stages import Size
from dfm_plugins.backbones.blocks import modulate
from dfm_plugins.backbones.embedders import TimestepEmbedder
from dfm_plugins.backbones.rows import per_sample


def patchify(stage: Tensor, patch: Size) -> Tensor:
    """(B, C, *size) -> (B, tokens, C · elements of a patch), row by row and frame by frame.

    patch: (height, width), of clips (frames, height, width). Where frames are left over, those of the first patch are
    preceded by zeros.
    """
    if len(patch) == 2:
        return rearrange(stage, "b c (h p1) (w p2) -> b (h w) (c p1 p2)", p1=patch[0], p2=patch[1])
    if missing := -stage.shape[2] % patch[0]:
        stage = F.pad(stage, (0, 0, 0, 0, missing, 0))
    return rearrange(stage, "b c (t p0) (h p1) (w p2) -> b (t h w) (c p0 p1 p2)", p0=patch[0], p1=patch[1], p2=patch[2])


def unpatchify(patches: Tensor, patch: Size, size: Size) -> Tensor:
    """(B, tokens, C · elements of a patch) -> (B, C, *size): the inverse of `patchify`."""
    rows, columns = size[-2] // patch[-2], size[-1] // patch[-1]
    if len(patch) == 2:
        return rearrange(patches, "b (h w) (c p1 p2) -> b c (h p1) (w p2)", h=rows, p1=patch[0], p2=patch[1])
    pattern = "b (t h w) (c p0 p1 p2) -> b c (t p0) (h p1) (w p2)"
    frames = rearrange(patches, pattern, h=rows, w=columns, p0=patch[0], p1=patch[1], p2=patch[2])
    return frames[:, :, -size[0] :]


class StageHead(nn.Module):
    """Read the velocity of one stage off the normalised tokens: own modulation, then a linear layer."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        self.projection = nn.Linear(width, features)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """tokens: (B, N, width), normalised. condition: (B, width), after its SiLU. Returns (B, N, features)."""
        shift, scale = rearrange(per_sample(self.modulation, condition), "b (two width) -> two b 1 width", two=2)
        return self.projection(modulate(tokens, shift, scale))


class StageIO(nn.Module):
    """All parameters that belong to one stage. features: elements of one of its patches, over all channels."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(features, width)
        self.timestep_embedder = TimestepEmbedder(width)
        self.head = StageHead(features, width)

    def embed_patches(self, patches: Tensor, visible: Tensor) -> Tensor:
        """patches: (B, N, features). visible: (B,) bool. Returns (B, N, width), zero where the stage is invisible."""
        shown = visible[:, None, None]
        # Selected before the layer, so that NaN reaches neither output nor gradient, and after it, because of its bias.
        return torch.where(shown, self.patch_embedding(torch.where(shown, patches, 0)), 0)

    def embed_timestep(self, t: Tensor, visible: Tensor) -> Tensor:
        """t: (B,), visible: (B,) bool. Returns (B, width), zero where the stage is invisible."""
        return torch.where(visible[:, None], self.timestep_embedder(torch.where(visible, t, 0)), 0)


@dataclass(frozen=True)
class StageEnd:
    """One stage of a batch with the parameters through which it goes in and comes out.

    noisy: (B, C, *spatial). t: (B,). visible: (B,) bool. patch: as `patchify` takes it.
    """

    io: StageIO
    patch: Size
    noisy: Tensor
    t: Tensor
    visible: Tensor

    def clock(self) -> Tensor:
        """Its timestep embedding, (B, width)."""
        return self.io.embed_timestep(self.t, self.visible)

    def tokens(self) -> Tensor:
        """Its patch embeddings, (B, N, width), in its own dtype: under autocast the residual stream stays float32."""
        return self.io.embed_patches(patchify(self.noisy, self.patch), self.visible).to(self.noisy.dtype)

    def velocity(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Its velocity (B, C, *spatial) from normalised tokens (B, N, width) and the condition (B, width)."""
        return unpatchify(self.io.head(tokens, condition), self.patch, self.noisy.shape[2:]).to(self.noisy.dtype)
