"""An autoencoder that has learned nothing: patches, turned by a random rotation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from dfm_core.interfaces.autoencoder import Autoencoder, AutoencoderFacts
from torch import Tensor

from dfm_example.plugin import OrthogonalOptions


class Orthogonal(Autoencoder):
    """The f × f patches of an image times one fixed orthogonal matrix: f²·C channels at 1/f of the size.

    Nothing is lost and no length changes, but no channel means anything by itself: the least that a latent space can
    be, to try the rest of the pipeline on. The matrix is the Q of a Gaussian one (Mezzadri 2007), drawn from `seed`.
    """

    options: OrthogonalOptions
    matrix: Tensor

    def __init__(self, options: OrthogonalOptions, facts: AutoencoderFacts) -> None:
        super().__init__(options, facts)
        gaussian = torch.randn(
            self.channels, self.channels, dtype=torch.float64, generator=torch.Generator().manual_seed(options.seed)
        )
        self.register_buffer("matrix", torch.linalg.qr(gaussian).Q.float())

    @property
    def downsample_factor(self) -> int:
        """Edge of a patch."""
        return self.options.patch

    @property
    def channels(self) -> int:
        """Values in a patch."""
        return self.facts.data_channels * self.options.patch**2

    def encode(self, images: Tensor) -> Tensor:
        """(B, data_channels, H, W) -> (B, channels, H/f, W/f), in the dtype of the images."""
        patches = F.pixel_unshuffle(images, self.options.patch)
        return torch.einsum("oc,bchw->bohw", self.matrix.to(images.dtype), patches)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images: the inverse of an orthogonal matrix is its transpose."""
        patches = torch.einsum("oc,bohw->bchw", self.matrix.to(latents.dtype), latents)
        return F.pixel_shuffle(patches, self.options.patch)
