"""Radial power spectrum, band by band: whether samples are too smooth or too rough, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from dfm_core.interfaces.metric import Features, ImageBatch, Metric, MetricFacts, Values
from dfm_plugins.metrics.specs import SpectrumOptions

_LEAST_POWER = 1e-12


class SpectrumDistance(Metric):
    """Mean over octaves of |10·log₁₀(power of the samples / power of the reference)|, in decibels.

    `spectrum_1` is the octave that ends at the Nyquist frequency, the last one all that is below; they keep their sign:
    positive where the samples have more power. Of clips: the power of their frames, averaged.
    """

    options: SpectrumOptions

    def __init__(self, options: SpectrumOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts)
        self.resamples = options.resamples
        self._masks = octaves(facts.size[-2:], options.bands)

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """Number of bands, and the window."""
        return {"bands": len(self._masks), "window": "Hann"}

    def features(self, batch: ImageBatch) -> Features:
        """Power of every band: {"power": (B, bands)}."""
        images = batch.images - batch.images.mean((-2, -1), keepdim=True)
        power = torch.fft.fft2(images * window(images)).abs().square().flatten(1, -3).mean(1)
        masks = self._masks.to(power)
        return {"power": torch.einsum("bhw,khw->bk", power, masks / masks.sum((1, 2), keepdim=True)).cpu().double()}

    def against(self, reference: Features) -> Callable[[Features], Values]:
        """Compare the mean powers."""
        expected = decibels(reference["power"])

        def measure(samples: Features) -> Values:
            bands = (decibels(samples["power"]) - expected).tolist()
            mean = sum(map(abs, bands)) / len(bands)
            return {"spectrum": mean, **{f"spectrum_{number}": value for number, value in enumerate(bands, 1)}}

        return measure


def decibels(power: Tensor) -> Tensor:
    """Mean over images of powers (N, bands), in decibels."""
    return 10 * power.mean(0).clamp_min(_LEAST_POWER).log10()


def window(images: Tensor) -> Tensor:
    """A Hann window (H, W): without it, the edges of an image would count as sharp details."""
    row, column = (
        torch.hann_window(length + 2, periodic=False, dtype=images.dtype, device=images.device)[1:-1]
        for length in images.shape[-2:]
    )
    return torch.outer(row, column)


def octaves(size: tuple[int, ...], bands: int) -> Tensor:
    """Masks (bands, H, W) over the places of `fft2`, from the highest octave down, without empty ones.

    Frequencies are measured in cycles per pixel, along the radius; corners beyond 1/2 belong to the first band.
    """
    vertical, horizontal = (torch.fft.fftfreq(length).abs() for length in size)
    radius = torch.hypot(vertical[:, None], horizontal[None, :])
    edges = [float("inf"), *(0.5**number for number in range(2, bands + 1)), 0.0]
    masks = [(radius > low) & (radius <= high) for high, low in pairwise(edges)]
    return torch.stack([mask for mask in masks if mask.any()])
