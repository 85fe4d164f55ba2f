"""No autoencoder: latents are the images or clips."""

from __future__ import annotations

from torch import Tensor

from dfm_core.interfaces.autoencoder import Autoencoder


class Pixels(Autoencoder):
    """The identity, factor 1, with the channels of the data."""

    @property
    def downsample_factor(self) -> int:
        """1."""
        return 1

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.facts.data_channels

    def encode(self, images: Tensor) -> Tensor:
        """Return the images, (B, C, H, W), or clips, (B, C, T, H, W)."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents, (B, C, H, W) or (B, C, T, H, W)."""
        return latents
