"""Laws of autoencoders: each takes an `Autoencoder`."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from dfm_core.conformance.global_randomness import under_two_seeds
from dfm_core.conformance.law import LawBroken, Measurement, at_most, law
from dfm_core.interfaces.autoencoder import Autoencoder
from dfm_core.randomness import derive_generator
from dfm_core.stages import Size

# In latents, height × width: square, and two that are not.
_LATENT_SIZES = ((8, 8), (4, 8), (8, 4))
# Frames × height × width: one frame, an even number and an odd one.
_CLIP_LATENT_SIZES = ((1, 8, 8), (2, 4, 8), (3, 8, 4))
LARGEST_PIXEL = 4.0
"""An autoencoder of photographs overshoots on noise; values in 0…255, or of latents that were never rescaled, do not
stay below this."""


@law("autoencoder")
def encoding_has_the_declared_shape(autoencoder: Autoencoder) -> Measurement:
    """`encode` gives (B, channels, H / factor, W / factor), for clips 1 + (T−1) / temporal factor frames, finite."""
    for size in _sizes(autoencoder):
        images = _images(autoencoder, size)
        latents = _encode(autoencoder, images)
        expected = (len(images), autoencoder.channels, *size)
        if tuple(latents.shape) != expected:
            raise LawBroken(
                f"{_given(autoencoder)} {tuple(images.shape)}: expected latents {expected} from channels "
                f"{autoencoder.channels} and {_factors(autoencoder)}, got {tuple(latents.shape)}"
            )
        if latents.dtype != images.dtype or not bool(latents.isfinite().all()):
            raise LawBroken(
                f"expected finite latents of {images.dtype}, got {latents.dtype}, {_finite(latents)} finite"
            )
    return Measurement()


@law("autoencoder")
def decoding_gives_back_the_shape(autoencoder: Autoencoder) -> Measurement:
    """`decode(encode(images))` has the shape and type of the images, finite."""
    for size in _sizes(autoencoder):
        images = _images(autoencoder, size)
        decoded = _decode(autoencoder, _encode(autoencoder, images))
        if decoded.shape != images.shape or decoded.dtype != images.dtype:
            raise LawBroken(
                f"expected {tuple(images.shape)} {images.dtype} back, got {tuple(decoded.shape)} {decoded.dtype}"
            )
        if not bool(decoded.isfinite().all()):
            raise LawBroken(f"expected finite images, got {_finite(decoded)} finite")
    return Measurement()


@law("autoencoder")
def decoding_keeps_the_range(autoencoder: Autoencoder) -> Measurement:
    """`decode(encode(images))` of images in [-1, 1] is nominally in [-1, 1]: it may go beyond, not to another scale."""
    largest = 0.0
    for size in _sizes(autoencoder):
        images = _images(autoencoder, size)
        decoded = _decode(autoencoder, _encode(autoencoder, images)).float()
        largest = max(largest, float(torch.where(decoded.isfinite(), decoded.abs(), 0.0).max()))
    return at_most(
        largest,
        LARGEST_PIXEL,
        f"decoded images have values of up to {largest:g}, nominal is 1 and expected at most {LARGEST_PIXEL:g}; scale "
        "them to [-1, 1]",
    )


@law("autoencoder")
def no_gradient_reaches_the_parameters(autoencoder: Autoencoder) -> Measurement:
    """The autoencoder is not trained: a loss on what it gives leaves every parameter without a gradient."""
    parameters = {name: value for name, value in autoencoder.named_parameters() if value.requires_grad}
    latents = autoencoder.eval().encode(_images(autoencoder, _sizes(autoencoder)[-1]))
    loss = latents.sum() + autoencoder.decode(latents).sum()
    if not parameters or not loss.requires_grad:
        return Measurement(0, 0)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    reached = [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    if reached:
        raise LawBroken(f"{len(reached)} parameters get a gradient, first {reached[0]}: call requires_grad_(False)")
    return Measurement(0, 0)


@law("autoencoder")
def encoding_is_deterministic(autoencoder: Autoencoder) -> Measurement:
    """In eval mode the same images give the same latents and the same pictures, bit for bit; no global random state."""
    images = _images(autoencoder, _sizes(autoencoder)[-1])

    def once() -> tuple[Tensor, Tensor]:
        latents = _encode(autoencoder, images.clone())
        return latents, _decode(autoencoder, latents.clone())

    runs = under_two_seeds(once, "encoding and decoding")
    difference = max(_distance(first, second) for first, second in zip(*runs, strict=True))
    return at_most(difference, 0, f"two runs differ by {difference:g}: use the mean of a distribution, and no dropout")


@law("autoencoder")
def any_latents_are_decoded(autoencoder: Autoencoder) -> Measurement:
    """`decode` takes latents of any size, whatever was encoded before: previews are smaller than what came in."""
    for encoded, size in itertools.permutations(_sizes(autoencoder), 2):
        latents = _encode(autoencoder, _images(autoencoder, size))
        expected = tuple(_decode(autoencoder, latents.clone()).shape)
        _encode(autoencoder, _images(autoencoder, encoded))
        try:
            got = tuple(_decode(autoencoder, latents.clone()).shape)
        except Exception as error:
            raise LawBroken(f"latents of {size} after encoding {encoded} failed: {error}; keep no sizes") from error
        if got != expected:
            raise LawBroken(
                f"latents of {size} after encoding {encoded}: expected {expected}, got {got}; keep no sizes"
            )
    return Measurement()


@law("autoencoder")
def images_do_not_influence_each_other(autoencoder: Autoencoder) -> Measurement:
    """Latents and pictures of an image are the same alone as in a batch, to float precision."""
    images = _images(autoencoder, _sizes(autoencoder)[-1])
    latents = _encode(autoencoder, images.clone())
    errors = []
    for what, run, given in (("latents", _encode, images), ("pictures", _decode, latents)):
        together = run(autoencoder, given.clone())
        alone = torch.cat([run(autoencoder, one[None].clone()) for one in given])
        bound = 1e-4 * max(1.0, float(together.abs().max()))
        difference = _distance(together, alone)
        told = f"{what} differ by {difference:g} with the rest of the batch, expected at most {bound:g}"
        errors.append(at_most(difference, bound, f"{told}; use no statistics of the batch"))
    return max(errors, key=lambda error: error.strain)


@law("autoencoder")
def inputs_are_not_changed(autoencoder: Autoencoder) -> Measurement:
    """`encode` and `decode` leave the tensors that they are given as they are."""
    images = _images(autoencoder, _sizes(autoencoder)[-1])
    kept = images.clone()
    latents = _encode(autoencoder, images)
    kept_latents = latents.clone()
    _decode(autoencoder, latents)
    difference = max(_distance(images, kept), _distance(latents, kept_latents))
    return at_most(difference, 0, f"the input changed by {difference:g}: use no in-place operation on it")


def _sizes(autoencoder: Autoencoder) -> tuple[Size, ...]:
    """Sizes of latents to try."""
    return _CLIP_LATENT_SIZES if autoencoder.facts.clips else _LATENT_SIZES


def _given(autoencoder: Autoencoder) -> str:
    return "clips" if autoencoder.facts.clips else "images"


def _factors(autoencoder: Autoencoder) -> str:
    temporal = f" and temporal_downsample_factor {autoencoder.temporal_downsample_factor}"
    return f"downsample_factor {autoencoder.downsample_factor}{temporal if autoencoder.facts.clips else ''}"


def _images(autoencoder: Autoencoder, size: Size) -> Tensor:
    """Return two random images or clips in [-1, 1], for latents of a size, on the parameters' device, of their type."""
    parameter = next(autoencoder.parameters(), torch.empty(0))
    *frames, height, width = size
    factor, group = autoencoder.downsample_factor, autoencoder.temporal_downsample_factor
    spatial = (*(1 + group * (count - 1) for count in frames), height * factor, width * factor)
    shape = (2, autoencoder.facts.data_channels, *spatial)
    images = torch.rand(shape, generator=derive_generator(0, "autoencoder laws")).mul_(2).sub_(1)
    return images.to(parameter.device, parameter.dtype)


def _encode(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    with torch.no_grad():
        return autoencoder.eval().encode(images)


def _decode(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return autoencoder.eval().decode(latents)


def _distance(first: Tensor, second: Tensor) -> float:
    """Largest difference; where neither is finite there is none."""
    first, second = first.float(), second.float()
    return float(torch.where(first.isfinite() | second.isfinite(), (first - second).abs(), 0.0).max())


def _finite(values: Tensor) -> str:
    return f"{float(values.isfinite().float().mean()):.0%}"
