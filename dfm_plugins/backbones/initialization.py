"""The initial weights of a network made of these parts."""

from __future__ import annotations

import torch
from torch import nn

from dfm_plugins.backbones.blocks import Block
from dfm_plugins.backbones.embedders import TimestepEmbedder
from dfm_plugins.backbones.stage_io import StageHead


def initialize_adaln_zero(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw all weights as DiT does: modulations and last layers zero, so every block is the identity and the output 0.

    generator: None draws from torch's global state, as its own modules do when they are built.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
    for module in network.modules():
        if isinstance(module, TimestepEmbedder):
            nn.init.normal_(module.first.weight, std=0.02, generator=generator)
            nn.init.normal_(module.second.weight, std=0.02, generator=generator)
        if isinstance(module, Block | StageHead):
            nn.init.zeros_(module.modulation.weight)
        if isinstance(module, StageHead):
            nn.init.zeros_(module.projection.weight)
