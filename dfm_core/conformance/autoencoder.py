"""Laws of autoencoders: each takes an `Autoencoder`."""

from __future__ import annotations

import torch
from torch import Tensor

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
        with torch.no_grad():
            decoded = autoencoder.eval().decode(autoencoder.encode(images))
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
        with torch.no_grad():
            decoded = autoencoder.eval().decode(autoencoder.encode(images)).float()
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
    """In eval mode the same images give the same latents and the same pictures, bit for bit."""
    images = _images(autoencoder, _sizes(autoencoder)[-1])
    first, second = _encode(autoencoder, images.clone()), _encode(autoencoder, images.clone())
    with torch.no_grad():
        pictures = [autoencoder.decode(first.clone()) for _ in range(2)]
    difference = max(_distance(first, second), _distance(*pictures))
    return at_most(difference, 0, f"two runs differ by {difference:g}: use the mean of a distribution, and no dropout")


@law("autoencoder")
def images_do_not_influence_each_other(autoencoder: Autoencoder) -> Measurement:
    """Latents of an image are the same alone as in a batch, to float precision."""
    images = _images(autoencoder, _sizes(autoencoder)[-1])
    together = _encode(autoencoder, images.clone())
    alone = torch.cat([_encode(autoencoder, image[None].clone()) for image in images])
    bound = 1e-4 * max(1.0, float(together.abs().max()))
    difference = _distance(together, alone)
    what = f"latents differ by {difference:g} with the rest of the batch, expected at most {bound:g}"
    return at_most(difference, bound, f"{what}; use no statistics of the batch")


@law("autoencoder")
def inputs_are_not_changed(autoencoder: Autoencoder) -> Measurement:
    """`encode` and `decode` leave the tensors that they are given as they are."""
    images = _images(autoencoder, _sizes(autoencoder)[-1])
    kept = images.clone()
    latents = _encode(autoencoder, images)
    kept_latents = latents.clone()
    with torch.no_grad():
        autoencoder.decode(latents)
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


def _distance(first: Tensor, second: Tensor) -> float:
    return float((first.float() - second.float()).abs().max())


def _finite(values: Tensor) -> str:
    return f"{float(values.isfinite().float().mean()):.0%}"
