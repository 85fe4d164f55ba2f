"""Steerable pyramid: a low band and K oriented bands a level, as filters in the Fourier domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from dfm_core.errors import StageSizeError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.residual_pyramid import ResidualPyramid, exact_arithmetic, working_dtype
from dfm_core.stages import Size, Stages, format_size
from torch import Tensor

from dfm_example.plugin import SteerableOptions


class Steerable(ResidualPyramid):
    """Tight frame of oriented bands. Simoncelli and Freeman 1995, with the filters of Portilla and Simoncelli 2000.

    A level splits its image (H × W) by frequency: L keeps the lower half of what the next coarser stage can show and is
    cropped to its size; B_k, k = 1…K, hold the rest by orientation. L² + Σ_k |B_k|² = 1 everywhere, so the same filters
    (conjugated) put the image together again. Stage s > 1 is the K bands of preview s: K·C channels at its full size,
    orientation by orientation. The finest bands reach into the corners of the spectrum: there is no high-pass
    residual. Borders are periodic.
    """

    options: SteerableOptions

    def __init__(self, options: SteerableOptions, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        _check_ratios(facts.stage_sizes)

    def stage_shape(self, sizes: Sequence[Size], stage_index: int) -> tuple[int, ...]:
        """Return the shape of the low band, or of K oriented ones."""
        bands = self.options.orientations if stage_index else 1
        return (bands * self.facts.channels, *sizes[stage_index])

    def decompose(self, x: Tensor) -> Stages:
        """Split x (B, C, H, W), fine to coarse. The bands of a level are those of its image, not of a residual."""
        sizes = [stage.resolution for stage in self.layout(x.shape[1:])]
        with exact_arithmetic(x.device):
            low, stages = x.to(working_dtype(x)), []
            for coarse, fine in reversed(list(pairwise(sizes))):
                bands = band_filters(fine, coarse, self.options.orientations, low)
                spectrum = torch.fft.rfft2(low)[:, None] * bands[:, None]
                stages.append(torch.fft.irfft2(spectrum, s=fine).flatten(1, 2))
                low = self.down(low, coarse)
            return tuple(stage.to(x.dtype) for stage in (low, *reversed(stages)))

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Filter with L and crop the spectrum; L is 0 at the highest frequency that is left, so nothing folds."""
        fine: Size = tuple(x.shape[2:])
        spectrum = torch.fft.rfft2(x) * low_filter(fine, size, x)
        cropped = spectrum[..., _signed_rows(size[0]), : size[1] // 2 + 1]
        return torch.fft.irfft2(cropped, s=size) * (math.prod(size) / math.prod(fine))

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Pad the spectrum with zeros and filter with L once more."""
        coarse: Size = tuple(x.shape[2:])
        spectrum = torch.fft.rfft2(x)
        padded = spectrum.new_zeros(*x.shape[:2], size[0], size[1] // 2 + 1)
        padded[..., _signed_rows(coarse[0]), : coarse[1] // 2 + 1] = spectrum
        enlarged = torch.fft.irfft2(padded * low_filter(size, coarse, x), s=size)
        return enlarged * (math.prod(size) / math.prod(coarse))

    def from_stage(self, stage: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Filter each band once more and add them up; `recompose` of the base adds them to the enlarged preview."""
        if stage_index == 0:
            return stage
        count = self.options.orientations
        bands = band_filters(sizes[stage_index], sizes[stage_index - 1], count, stage)
        spectrum = torch.fft.rfft2(stage.unflatten(1, (count, -1))) * bands.conj()[:, None]
        return torch.fft.irfft2(spectrum.sum(1), s=sizes[stage_index])


def low_filter(fine: Size, coarse: Size, like: Tensor) -> Tensor:
    """L, (H, W//2 + 1): 1 up to half of the coarse image's highest frequency, then a cosine down to 0 at all of it."""
    return torch.cos(math.pi / 2 * _octaves(fine, coarse, like))


def band_filters(fine: Size, coarse: Size, count: int, like: Tensor) -> Tensor:
    """B_k, (K, H, W//2 + 1): √(1 − L²) times the angular part (i cos(θ − πk/K))^(K−1), scaled so that Σ_k |·|² = 1.

    They are derivatives of order K−1: the band of any other orientation is a linear combination of the K.
    """
    rows, columns = _frequencies(fine, like)
    order = count - 1
    turns = torch.arange(count, dtype=like.dtype, device=like.device)[:, None, None] / count
    theta = torch.atan2(rows, columns) - math.pi * turns
    angular = torch.cos(theta) ** order / math.sqrt(count * math.comb(2 * order, order) / 4**order)
    # An even length's highest frequency is its own mirror image and has no orientation: an equal share for each band.
    mirrored = (rows.abs() == 0.5) | (columns == 0.5)
    oriented = torch.where(mirrored, 1 / math.sqrt(count), 1j**order * angular)
    return oriented * torch.sin(math.pi / 2 * _octaves(fine, coarse, like))


def _octaves(fine: Size, coarse: Size, like: Tensor) -> Tensor:
    """Octaves above half of the coarse image's highest frequency, clipped to [0, 1], (H, W//2 + 1)."""
    rows, columns = _frequencies(fine, like)
    radius = torch.hypot(rows * (fine[0] / coarse[0]), columns * (fine[1] / coarse[1]))
    return torch.log2(4 * radius).clamp(0, 1)


def _frequencies(size: Size, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cycles a pixel, down (H, 1) and across (W//2 + 1,)."""
    rows = torch.fft.fftfreq(size[0], dtype=like.dtype, device=like.device)[:, None]
    return rows, torch.fft.rfftfreq(size[1], dtype=like.dtype, device=like.device)


def _signed_rows(length: int) -> Tensor:
    """Where the frequencies of `length` rows stand in any longer spectrum: 0, 1, …, −2, −1."""
    return torch.roll(torch.arange(length) - length // 2, -(length // 2))


def _check_ratios(sizes: Sequence[Size]) -> None:
    """Raise StageSizeError unless each stage is 2, 3, 4 … times the one before, alike along height and width."""
    ratios = [round(fine[0] / coarse[0]) for coarse, fine in pairwise(sizes)]
    multiplied = [tuple(n * ratio for n in coarse) for (coarse, _), ratio in zip(pairwise(sizes), ratios, strict=True)]
    if len(sizes[0]) == 2 and min(ratios, default=2) >= 2 and multiplied == [*sizes[1:]]:
        return
    ratios = [max(2, ratio) for ratio in ratios]
    coarsest = [max(1, round(length / math.prod(ratios))) for length in sizes[-1][-2:]]
    nearest = [tuple(n * math.prod(ratios[:stage]) for n in coarsest) for stage in range(len(sizes))]
    raise StageSizeError(
        "example/steerable splits images (height × width), each stage 2, 3, 4 … times the one before along both axes; "
        f"got {', '.join(map(format_size, sizes))}; the nearest that work: {', '.join(map(format_size, nearest))}"
    )
