"""Sizes in pixels and in latents: closed forms, the inverse, and what does not divide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfm_core.errors import StageSizeError
from dfm_core.interfaces.autoencoder import Autoencoder, AutoencoderFacts
from dfm_core.latent_sizes import latent_size, latent_sizes, pixel_size
from dfm_core.plugins import Options


class Dividing(Autoencoder):
    """Divides height and width by 8, and the frames after the first by 4."""

    factor, group = 8, 4

    @property
    def downsample_factor(self) -> int:
        return self.factor

    @property
    def temporal_downsample_factor(self) -> int:
        return self.group

    @property
    def channels(self) -> int:
        return 2

    def encode(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 2, *latent_size(self, images.shape[2:]))

    def decode(self, latents: Tensor) -> Tensor:
        return torch.zeros(len(latents), 3, *pixel_size(self, latents.shape[2:]))


def dividing(factor: int = 8, group: int = 4) -> Autoencoder:
    autoencoder = Dividing(Options(), AutoencoderFacts(3))
    autoencoder.factor, autoencoder.group = factor, group
    return autoencoder


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_the_first_frame_has_a_latent_of_its_own(frames: int, group: int) -> None:
    autoencoder = dividing(group=group)
    size = latent_size(autoencoder, (frames, 16, 24))
    assert size == (1 + (frames - 1) / group, 2, 3)
    assert pixel_size(autoencoder, size) == (frames, 16, 24)


def test_images_have_no_time() -> None:
    assert latent_sizes(((16, 24), (32, 48)), dividing()) == ((2, 3), (4, 6))
    assert pixel_size(dividing(), (4, 6)) == (32, 48)


def test_an_autoencoder_that_knows_no_clips_keeps_the_frames() -> None:
    from dfm_plugins.autoencoders.pixels import Pixels

    assert latent_sizes(((4, 8, 8), (8, 16, 16)), Pixels(Options(), AutoencoderFacts(3))) == ((4, 8, 8), (8, 16, 16))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (((12, 16), (32, 32)), "stages 12x16: the autoencoder divides by 8; 16,32 would work"),
        (
            ((9, 16, 16), (16, 32, 32)),
            "stages 16x32x32: the autoencoder divides by 8, and the frames after the first by 4; "
            "9x16x16,17x32x32 would work",
        ),
        (((5, 4, 8), (5, 32, 32)), "5x8x8,5x32x32 would work"),
    ],
)
def test_what_does_not_divide(stages: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(StageSizeError) as caught:
        latent_sizes(stages, dividing())
    assert message in str(caught.value)
