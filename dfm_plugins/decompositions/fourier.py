"""Fourier resampling: each stage adds the next band of frequencies."""

from __future__ import annotations

import torch
from torch import Tensor

from dfm_core.residual_pyramid import ResidualPyramid
from dfm_core.stages import Size


class FourierTransform(ResidualPyramid):
    """Residual pyramid of ideal low-passes, periodic at the borders: any ratio, any number of spatial dimensions."""

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Keep the lowest frequencies."""
        return _resample(x, size)

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Pad the spectrum with zeros."""
        return _resample(x, size)


def _resample(x: Tensor, size: Size) -> Tensor:
    """Resample x (B, C, *spatial) to `size`, axis by axis, as `scipy.signal.resample` does."""
    for axis, length in reversed(list(enumerate(size, start=2))):
        x = _resample_axis(x, length, axis)
    return x


def _resample_axis(x: Tensor, length: int, axis: int) -> Tensor:
    before = x.shape[axis]
    if before == length:
        return x
    kept = min(before, length)
    spectrum = torch.fft.rfft(x, dim=axis).narrow(axis, 0, kept // 2 + 1)
    if kept % 2 == 0:
        # The bin at half the sampling rate stands for ±f: on the way down two fold into it, on the way up it halves.
        low, nyquist = spectrum.split([kept // 2, 1], dim=axis)
        spectrum = torch.cat([low, nyquist * (2.0 if length < before else 0.5)], dim=axis)
    return torch.fft.irfft(spectrum, n=length, dim=axis) * (length / before)
