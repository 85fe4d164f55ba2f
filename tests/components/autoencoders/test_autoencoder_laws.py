"""`pixels` is the identity; it holds every law, and for every law there is an autoencoder that breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfm_core.conformance import LawBroken, laws_of
from dfm_core.conformance.law import Law
from dfm_core.interfaces.autoencoder import Autoencoder, AutoencoderFacts
from dfm_core.plugins import Options
from dfm_plugins.autoencoders.pixels import Pixels
from dfm_plugins.autoencoders.specs import SPECS

LAWS = {law.name: law for law in laws_of("autoencoder")}


class Convolutional(Autoencoder):
    """A frozen strided convolution and its transpose: factor 4, 5 channels; the broken ones change one thing."""

    def __init__(self, options: Options, facts: AutoencoderFacts) -> None:
        super().__init__(options, facts)
        weight = torch.randn(5, facts.data_channels, 4, 4, generator=torch.Generator().manual_seed(0)) / 8
        self.weight = nn.Parameter(weight, requires_grad=False)

    @property
    def downsample_factor(self) -> int:
        return 4

    @property
    def channels(self) -> int:
        return 5

    def encode(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.weight, stride=4)

    def decode(self, latents: Tensor) -> Tensor:
        return F.conv_transpose2d(latents, self.weight, stride=4)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("made", [Pixels, Convolutional])
def test_laws_hold(law: Law, channels: int, made: type[Autoencoder]) -> None:
    law.check(made(Options(), AutoencoderFacts(channels)))


class CausalPooling(Convolutional):
    """The mean of every three frames after the first, each then as an image: temporal factor 3."""

    @property
    def temporal_downsample_factor(self) -> int:
        return 3

    def encode(self, images: Tensor) -> Tensor:
        first, rest = images[:, :, :1], images[:, :, 1:]
        pooled = torch.cat([first, rest.unflatten(2, (-1, 3)).mean(3)], dim=2) if rest.shape[2] else first
        return each_frame(super().encode, pooled)

    def decode(self, latents: Tensor) -> Tensor:
        frames = each_frame(super().decode, latents)
        return torch.cat([frames[:, :, :1], frames[:, :, 1:].repeat_interleave(3, dim=2)], dim=2)


def each_frame(function: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
    return torch.stack([function(frame) for frame in clips.unbind(2)], dim=2)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("made", [Pixels, CausalPooling])
def test_laws_hold_for_clips(law: Law, made: type[Autoencoder]) -> None:
    law.check(made(Options(), AutoencoderFacts(3, clips=True)))


class PlainPooling(CausalPooling):
    """Pools all frames alike."""

    def encode(self, images: Tensor) -> Tensor:
        return each_frame(lambda frame: Convolutional.encode(self, frame), images[:, :, ::4])

    def decode(self, latents: Tensor) -> Tensor:
        return each_frame(lambda frame: Convolutional.decode(self, frame), latents.repeat_interleave(4, dim=2))


class Undeclared(CausalPooling):
    @property
    def temporal_downsample_factor(self) -> int:
        return 6


class LosingAFrame(CausalPooling):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents)[:, :, : max(1, 3 * (latents.shape[2] - 1))]


@pytest.mark.parametrize(
    ("broken", "law", "message"),
    [
        (Undeclared, "encoding_has_the_declared_shape", r"and temporal_downsample_factor 6, got \(2, 5, 3, 4, 8\)"),
        (LosingAFrame, "decoding_gives_back_the_shape", r"expected \(2, 3, 4, 16, 32\) .* got \(2, 3, 3, 16, 32\)"),
        (PlainPooling, "decoding_gives_back_the_shape", r"expected \(2, 3, 1, 32, 32\) .* got \(2, 3, 4, 32, 32\)"),
    ],
)
def test_wrong_times_break_a_law(broken: type[Autoencoder], law: str, message: str) -> None:
    with pytest.raises(LawBroken, match=message):
        LAWS[law].check(broken(Options(), AutoencoderFacts(3, clips=True)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_laws_follow_the_type_of_the_parameters(dtype: torch.dtype) -> None:
    LAWS["encoding_has_the_declared_shape"].check(Convolutional(Options(), AutoencoderFacts(3)).to(dtype))


def test_pixels_is_the_identity() -> None:
    assert [spec.name for spec in SPECS] == ["pixels", "diffusers"]
    pixels = Pixels(Options(), AutoencoderFacts(3))
    images = torch.rand(2, 3, 4, 6, dtype=torch.float64) * 2 - 1
    assert (pixels.downsample_factor, pixels.channels) == (1, 3)
    assert torch.equal(pixels.decode(pixels.encode(images)), images)
    assert pixels.temporal_downsample_factor == 1


class WrongFactor(Convolutional):
    @property
    def downsample_factor(self) -> int:
        return 8


class WrongChannels(Convolutional):
    @property
    def channels(self) -> int:
        return 4


class WrongType(Convolutional):
    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images).double()

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents.float())


class Infinite(Convolutional):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents) / 0


class OutOfScale(Convolutional):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents) * 127.5 + 127.5


class Cropping(Convolutional):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents)[..., 1:]


class Trainable(Convolutional):
    def __init__(self, options: Options, facts: AutoencoderFacts) -> None:
        super().__init__(options, facts)
        self.weight.requires_grad_(True)


class Sampling(Convolutional):
    def __init__(self, options: Options, facts: AutoencoderFacts) -> None:
        super().__init__(options, facts)
        self.generator = torch.Generator().manual_seed(0)

    def encode(self, images: Tensor) -> Tensor:
        latents = super().encode(images)
        return latents + 1e-5 * torch.randn(latents.shape, generator=self.generator)


class BatchNormalising(Convolutional):
    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images - images.mean())


class DecodingTheMean(Convolutional):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents - latents.mean(0, keepdim=True))


class Seeding(Convolutional):
    def encode(self, images: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().encode(images)


class KeepingTheSize(Convolutional):
    size: tuple[int, ...] = ()

    def encode(self, images: Tensor) -> Tensor:
        self.size = tuple(images.shape[-2:])
        return super().encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        height, width = self.size
        return super().decode(latents)[..., :height, :width]


class RefusingOtherSizes(KeepingTheSize):
    def decode(self, latents: Tensor) -> Tensor:
        if tuple(4 * length for length in latents.shape[-2:]) != self.size:
            raise ValueError("another size")
        return super().decode(latents)


class InPlace(Convolutional):
    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images.mul_(0.5))


class InPlaceDecoding(Convolutional):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents.add_(1))


@pytest.mark.parametrize(
    ("broken", "law", "message"),
    [
        (WrongFactor, "encoding_has_the_declared_shape", r"downsample_factor 8, got"),
        (WrongChannels, "encoding_has_the_declared_shape", r"channels 4"),
        (WrongType, "encoding_has_the_declared_shape", "torch.float64"),
        (Infinite, "decoding_gives_back_the_shape", "0% finite"),
        (
            Cropping,
            "decoding_gives_back_the_shape",
            r"expected \(2, 3, 32, 32\) torch.float32 back, got \(2, 3, 32, 31\)",
        ),
        (OutOfScale, "decoding_keeps_the_range", "scale them to"),
        (Trainable, "no_gradient_reaches_the_parameters", "1 parameters get a gradient, first weight"),
        (Sampling, "encoding_is_deterministic", "two runs differ by"),
        (BatchNormalising, "images_do_not_influence_each_other", "with the rest of the batch"),
        (DecodingTheMean, "images_do_not_influence_each_other", "pictures differ by"),
        (Seeding, "encoding_is_deterministic", "changed the global random state of torch"),
        (KeepingTheSize, "any_latents_are_decoded", r"expected \(2, 3, 32, 32\), got \(2, 3, 16, 32\); keep no sizes"),
        (RefusingOtherSizes, "any_latents_are_decoded", "failed: another size; keep no sizes"),
        (InPlace, "inputs_are_not_changed", "input changed"),
        (InPlaceDecoding, "inputs_are_not_changed", "input changed"),
    ],
)
def test_a_broken_autoencoder_breaks_its_law_only(broken: type[Autoencoder], law: str, message: str) -> None:
    found = {}
    for name in LAWS:
        try:
            LAWS[name].check(broken(Options(), AutoencoderFacts(3)))
        except LawBroken as error:
            found[name] = str(error)
    assert set(found) == {law}
    assert re.search(message, found[law])


def test_every_law_has_a_broken_autoencoder() -> None:
    (mark,) = test_a_broken_autoencoder_breaks_its_law_only.pytestmark  # type: ignore[attr-defined]
    assert {law for _, law, _ in mark.args[1]} == set(LAWS)
