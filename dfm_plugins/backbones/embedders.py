"""What the network is told beside the noisy stages: timesteps, the stage being generated, the class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfm_core.stages import finest_visible
from dfm_plugins.backbones.positions import frequencies, remembered
from dfm_plugins.backbones.rows import per_sample

TIMESTEP_FEATURES = 256
TIMESTEP_SCALE = 1000.0
"""t = 1 is 1000 radians of the fastest sine: DiT's diffusion steps 0…999, so its frequencies fit."""


class TimestepEmbedder(nn.Module):
    """Embed the timestep of one stage: 256 sinusoidal features through a two-layer MLP, as in DiT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(TIMESTEP_FEATURES, width)
        self.second = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """t: (B,) in [0, 1] -> (B, width)."""
        angles = TIMESTEP_SCALE * t[:, None] * remembered(frequencies, TIMESTEP_FEATURES // 2, like=t)
        features = torch.cat((angles.cos(), angles.sin()), dim=-1)
        hidden = F.silu(per_sample(self.first, features.to(self.first.weight.dtype)))
        return per_sample(self.second, hidden)


class LabelEmbedder(nn.Module):
    """Embed the class; one more row stands for "no class"."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes + 1, width)

    def forward(self, label: Tensor | None) -> Tensor:
        """label: (B,) int64 in [0, num_classes], or None for no class -> (B or 1, width)."""
        if label is None:
            label = torch.full((1,), self.table.num_embeddings - 1, device=self.table.weight.device)
        return self.table(label)


class StageIndexEmbedder(nn.Module):
    """Embed which stage is being generated: the finest visible one, so for a prefix the number of visible stages."""

    def __init__(self, num_stages: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_stages, width)

    def forward(self, visible: Tensor) -> Tensor:
        """visible: (B, S) bool -> (B, width)."""
        return self.table(finest_visible(visible))
