"""Kind `autoencoder`: between pixels and the space in which the flow runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from pydantic import BaseModel
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoencoderFacts:
    """What core computes for an autoencoder. data_channels: channels of the data set's images."""

    data_channels: int


class Autoencoder(nn.Module, ABC):
    """Encode images in [-1, 1] to latents and back; never trained here. `pixels` is the identity."""

    def __init__(self, options: BaseModel, facts: AutoencoderFacts) -> None:
        super().__init__()
        self.options = options
        self.facts = facts

    @property
    @abstractmethod
    def downsample_factor(self) -> int:
        """Pixels a latent along each spatial axis."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the latents."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """(B, data_channels, H, W) in [-1, 1] -> (B, channels, H/f, W/f)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """(B, channels, H/f, W/f) -> (B, data_channels, H, W), nominally in [-1, 1]."""
