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
    """Encode images in [-1, 1] to latents and back; frozen, never trained here.

    Laws: shapes as declared; in eval mode the same images give the same bits; the latents of an image do not depend on
    its batch; inputs are not changed. That decoding gives back the image is no law: a learned one loses something.
    Core sets eval mode, freezes the parameters and calls both directions without gradients and outside autocast.
    Weights are loaded in `__init__`.
    """

    def __init__(self, options: BaseModel, facts: AutoencoderFacts) -> None:
        super().__init__()
        self.options = options
        self.facts = facts

    @property
    @abstractmethod
    def downsample_factor(self) -> int:
        """How many pixels one latent stands for along each spatial axis: f, at least 1."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the latents."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, data_channels, H, W) in [-1, 1] into latents (B, channels, H/f, W/f); f divides H and W."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, channels, h, w) into images (B, data_channels, f·h, f·w), nominally in [-1, 1].

        Any h and w: the previews of the coarser stages are decoded, too.
        """
