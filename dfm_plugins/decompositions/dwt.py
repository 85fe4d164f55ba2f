"""Discrete wavelet transform, periodised, with the filters of PyWavelets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pywt
import torch
from einops import rearrange
from torch import Tensor

from dfm_core.errors import ConfigError, StageSizeError, suggest
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.residual_pyramid import ResidualPyramid
from dfm_core.stages import Size, format_size
from dfm_plugins.decompositions.separable import Matrix, apply_to_axes, blocks_along
from dfm_plugins.decompositions.specs import WaveletOptions

WORST_RECONSTRUCTION = 1e-6
"""Error of analysis and synthesis above which a wavelet is refused in the coefficient domain (dmey: 3e-2)."""


class WaveletTransform(ResidualPyramid):
    """Low-pass by the wavelet's analysis branch, one level per factor of two. Mallat 1989.

    Analysis equals `pywt.wavedec2(mode="periodization")`, whose low band is 2 per level times the mean: `down` divides
    that out, so previews are images (those of db2 lie 0.43 pixels off centre, Haar's 0).
    In the coefficient domain stage 1 is the coarsest preview, and a later stage of L levels along d axes holds the
    detail bands of the orthonormal transform of *preview s*: (2^(dL) − 1)·C channels at the previous preview's size,
    so 3C for an image and L = 1, 15C for L = 2, 7C for a clip that also halves in time. Order: level (coarsest first),
    band, position within the space-to-depth block (row by row), channel. Bands are in the order of binary numbers whose
    lowest digit is the first axis: of images horizontal, vertical, diagonal as in PyWavelets; of clips daa, ada, dda,
    aad … as `pywt.dwtn` names them. With an orthogonal wavelet the squared norm of the input is the sum over stages of
    (pixels of the input / pixels of preview s) × the stage's squared norm.
    """

    def __init__(self, options: WaveletOptions, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        self.wavelet = options.wavelet
        self.in_coefficients = options.domain == "coefficients"
        _check_wavelet(self.wavelet, self.in_coefficients)
        _check_sizes(self)
        self.layout((facts.channels, *facts.stage_sizes[-1]))

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Take the low band as many levels down as `size` asks for."""
        return apply_to_axes(x, low_pass_matrix, self._axes(x.shape[2:], size))

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Synthesise with zero details."""
        return apply_to_axes(x, expansion_matrix, self._axes(size, x.shape[2:]))

    def stage_shape(self, sizes: Sequence[Size], stage_index: int) -> tuple[int, ...]:
        """Return the shape of the residual image, or of its detail bands."""
        if not self.in_coefficients or stage_index == 0:
            return super().stage_shape(sizes, stage_index)
        levels, axes = _levels(sizes, stage_index)
        bands = 2 ** (levels * sum(axes)) - 1
        return (bands * self.facts.channels, *sizes[stage_index - 1])

    def to_stage(self, residual: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Return the detail bands of the residual, which are those of the preview: its own low band is empty."""
        if not self.in_coefficients or stage_index == 0:
            return residual
        levels, axes = _levels(sizes, stage_index)
        pairs, low, bands = blocks_along(axes, 2), residual, []
        for level in reversed(range(levels)):
            mixed = apply_to_axes(low, analysis_matrix, self._whole_axes(low.shape[2:], axes))
            pattern = f"b c {pairs.whole} -> ({pairs.inside_reversed}) b c {pairs.outside}"
            low, details = rearrange(mixed, pattern, **pairs.named).tensor_split([1])
            low = low[0]
            blocks = blocks_along(axes, 2**level)  # finer bands by space-to-depth
            pattern = f"k b c {blocks.whole} -> b (k {blocks.inside} c) {blocks.outside}"
            bands.append(rearrange(details, pattern, **blocks.named))
        return torch.cat(bands[::-1], dim=1)

    def from_stage(self, stage: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Synthesise the residual from its detail bands and an empty low band."""
        if not self.in_coefficients or stage_index == 0:
            return stage
        levels, axes = _levels(sizes, stage_index)
        pairs, count, channels = blocks_along(axes, 2), 2 ** sum(axes), self.facts.channels
        low = stage.new_zeros(len(stage), channels, *stage.shape[2:])
        for level, bands in enumerate(stage.split([(count - 1) * channels * count**n for n in range(levels)], dim=1)):
            blocks = blocks_along(axes, 2**level)
            pattern = f"b (k {blocks.inside} c) {blocks.outside} -> k b c {blocks.whole}"
            details = rearrange(bands, pattern, k=count - 1, **blocks.named)
            pattern = f"({pairs.inside_reversed}) b c {pairs.outside} -> b c {pairs.whole}"
            mixed = rearrange(torch.cat([low[None], details]), pattern, **pairs.named)
            low = apply_to_axes(mixed, synthesis_matrix, self._whole_axes(mixed.shape[2:], axes))
        return low

    def _axes(self, fine: Sequence[int], coarse: Sequence[int]) -> list[tuple[str, int, int] | None]:
        """Arguments of a low-pass matrix per axis: wavelet, length, levels; None where the length stays."""
        return [
            # Haar's filters do not overlap: small blocks instead of the whole axis.
            (self.wavelet, ratio if _is_haar(self.wavelet) else length, ratio.bit_length() - 1)
            if (ratio := length // small) > 1
            else None
            for length, small in zip(fine, coarse, strict=True)
        ]

    def _whole_axes(self, lengths: Sequence[int], axes: Sequence[bool]) -> list[tuple[str, int] | None]:
        return [
            (self.wavelet, 2 if _is_haar(self.wavelet) else length) if changes else None
            for length, changes in zip(lengths, axes, strict=True)
        ]


def analysis_matrix(wavelet: str, length: int) -> Matrix:
    """One periodised level (length, length): rows alternate between the low and the high band."""
    return _filter_rows(pywt.Wavelet(wavelet).dec_lo[::-1], pywt.Wavelet(wavelet).dec_hi[::-1], length)


def synthesis_matrix(wavelet: str, length: int) -> Matrix:
    """Inverse of `analysis_matrix`, from the reconstruction filters (its transpose for orthogonal wavelets only)."""
    rows = _filter_rows(pywt.Wavelet(wavelet).rec_lo, pywt.Wavelet(wavelet).rec_hi, length)
    return np.ascontiguousarray(rows.T)


def low_pass_matrix(wavelet: str, length: int, levels: int) -> Matrix:
    """Low band after `levels` levels (length / 2**levels, length), divided by its gain √2 per level."""
    matrix = np.eye(length)
    for level in range(levels):
        matrix = analysis_matrix(wavelet, length >> level)[::2] @ matrix / np.sqrt(2)
    return matrix


def expansion_matrix(wavelet: str, length: int, levels: int) -> Matrix:
    """Synthesis with zero details from `levels` levels down (length, length / 2**levels), times the gain."""
    matrix = np.eye(length)
    for level in range(levels):
        matrix = matrix @ synthesis_matrix(wavelet, length >> level)[:, ::2] * np.sqrt(2)
    # Unit gain: of all wavelets only dmey's truncated filters miss it (by 1e-3).
    return matrix / matrix.sum(axis=1, keepdims=True)


def _filter_rows(low: Sequence[float], high: Sequence[float], length: int) -> Matrix:
    """Place the two filters at every second position of a ring of `length` elements, as PyWavelets aligns them."""
    rows = np.zeros((length, length))
    position = np.arange(length // 2)
    for tap, (low_tap, high_tap) in enumerate(zip(low, high, strict=True)):
        column = (2 * position + tap - (len(low) // 2 - 1)) % length
        rows[2 * position, column] += low_tap
        rows[2 * position + 1, column] += high_tap
    return rows


def _is_haar(wavelet: str) -> bool:
    return pywt.Wavelet(wavelet).dec_len == 2


def _check_wavelet(wavelet: str, in_coefficients: bool) -> None:
    """Raise ConfigError for a name that PyWavelets does not have, or a wavelet that cannot reconstruct."""
    known = pywt.wavelist(kind="discrete")
    if wavelet not in known:
        near = suggest(wavelet, known)
        raise ConfigError(
            f"dwt: no discrete wavelet {wavelet!r} in PyWavelets.{near} `pywt.wavelist(kind='discrete')` lists them"
        )
    if not in_coefficients:
        return  # the residual carries whatever the wavelet misses
    length = 2 * pywt.Wavelet(wavelet).dec_len
    missing = synthesis_matrix(wavelet, length) @ analysis_matrix(wavelet, length) - np.eye(length)
    error = float(np.abs(missing).sum(axis=1).max())
    if error > WORST_RECONSTRUCTION:
        raise ConfigError(
            f"dwt: {wavelet} does not reconstruct in the coefficient domain (error up to {error:.0e}); "
            "use domain=spatial, or another wavelet (haar, db2, sym4, bior2.2 …)"
        )


def _levels(sizes: Sequence[Size], stage_index: int) -> tuple[int, tuple[bool, ...]]:
    """Levels of a stage over the one before, and which axes take part: those whose length changes."""
    ratios = [fine // coarse for coarse, fine in zip(sizes[stage_index - 1], sizes[stage_index], strict=True)]
    return max(ratios).bit_length() - 1, tuple(ratio > 1 for ratio in ratios)


def _check_sizes(decomposition: ResidualPyramid) -> None:
    """Raise StageSizeError unless the axes that change between two stages do so by one power of two."""
    sizes = decomposition.plain_sizes(decomposition.facts.stage_sizes)
    for coarse, fine in pairwise(sizes):
        ratios = {Fraction(f, c) for c, f in zip(coarse, fine, strict=True)} - {Fraction(1)}
        if len(ratios) != 1 or not _is_power_of_two(*ratios):
            raise StageSizeError(_which_would_work(decomposition, sizes))


def _is_power_of_two(ratio: Fraction) -> bool:
    return ratio.denominator == 1 and ratio.numerator & (ratio.numerator - 1) == 0


def _which_would_work(decomposition: ResidualPyramid, sizes: Sequence[Size]) -> str:
    """Message: the nearest sizes in ratios of powers of two."""
    got = decomposition.facts.stage_sizes
    # Levels as along the height, or in time where the height stays.
    doublings = [max(1, round(math.log2(f[-2] / c[-2] if f[-2] > c[-2] else f[0] / c[0]))) for c, f in pairwise(sizes)]
    lengths = [_nearest(axis, doublings) for axis in zip(*sizes, strict=True)]
    nearest = [decomposition.whole_size(size) for size in zip(*lengths, strict=True)]
    axes = "frames, height and width, those that change" if len(got[-1]) == 3 else "height and width"
    return (
        f"dwt: each stage must be 2, 4, 8 … times the one before, the same along {axes}, "
        f"got {', '.join(map(format_size, got))}; the nearest that work: {', '.join(map(format_size, nearest))}"
    )


def _nearest(lengths: Sequence[int], doublings: Sequence[int]) -> list[int]:
    """Lengths of all stages along one axis, near to the given ones: doubled where these grow."""
    steps = [
        doubled if fine > coarse else 0 for doubled, (coarse, fine) in zip(doublings, pairwise(lengths), strict=True)
    ]
    coarsest = max(1, round(lengths[-1] / 2 ** sum(steps)))
    return [coarsest << sum(steps[:stage]) for stage in range(len(lengths))]
