"""Kind `autoencoder`: between pixels and the space in which the flow runs."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import BaseModel
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoencoderFacts:
    """What core computes for an autoencoder.

    data_channels: channels of the data set's images. clips: whether it is given clips; an image among clips is a clip
    of one frame.
    """

    data_channels: int
    clips: bool = False


class Autoencoder(nn.Module, ABC):
    """Encode images or clips in [-1, 1] to latents and back; frozen, never trained here.

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
    def temporal_downsample_factor(self) -> int:
        """How many frames one latent stands for along time: k, at least 1; the first frame has a latent of its own."""
        return 1

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the latents."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, data_channels, H, W) in [-1, 1] into latents (B, channels, H/f, W/f); f divides H and W.

        Where facts.clips, turn clips (B, data_channels, T, H, W) into latents (B, channels, 1 + (T−1)/k, H/f, W/f); k
        divides T−1. T may be 1.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, channels, h, w) into images (B, data_channels, f·h, f·w), nominally in [-1, 1].

        Any h and w: the previews of the coarser stages are decoded, too. Where facts.clips, turn latents
        (B, channels, t, h, w) into clips of 1 + k·(t−1) frames.
        """

    @property
    def stochastic(self) -> bool:
        """Whether training is to see latents from `draw` instead of those from `encode`."""
        return False

    def draw(self, images: Tensor, noise: Tensor) -> Tensor:
        """Latents from the distribution whose mean `encode` gives, where there is one; noise 0 gives the mean.

        noise: standard normal, of the shape of the latents.
        """
        return self.encode(images)

    @cached_property
    def key(self) -> str:
        """Name of the latent space: whoever has the same key can decode these latents.

        Default: the class, and a hash of options and state; override it where options do not change the latents.
        """
        options = json.dumps(dict(self.options), sort_keys=True, default=str)
        return f"{type(self).__name__}-{state_digest(self.state_dict(), options)}"


def state_digest(state: Mapping[str, Tensor], *texts: str) -> str:
    """Hash of tensors (names, types, shapes, bits; their order does not matter) and texts, 16 hexadecimal digits."""
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=8)
    for name, tensor in sorted(state.items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
