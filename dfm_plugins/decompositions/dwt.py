"""Discrete wavelet transform, periodised, with the filters of PyWavelets."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from dfm_plugins.decompositions.separable import Matrix, apply_to_axes
from dfm_plugins.decompositions.specs import WaveletOptions

WORST_RECONSTRUCTION = 1e-6
"""Error of analysis and synthesis above which a wavelet is refused in the coefficient domain (dmey: 3e-2)."""


class WaveletTransform(ResidualPyramid):
    """Low-pass by the wavelet's analysis branch, one level per factor of two. Mallat 1989.

    Analysis equals `pywt.wavedec2(mode="periodization")`, whose low band is 2 per level times the mean: `down` divides
    that out, so previews are images (those of db2 lie 0.43 pixels off centre, Haar's 0).
    In the coefficient domain stage 1 is the coarsest preview, and a later stage of L levels holds the detail bands of
    the orthonormal transform of *preview s*: 3C channels at half the preview's size for L = 1, 15C at a quarter for
    L = 2. Order: level (coarsest first), band (horizontal, vertical, diagonal as in PyWavelets), position within the
    space-to-depth block (row by row), channel. With an orthogonal wavelet the squared norm of the input is the sum
    over stages of (pixels of the input / pixels of preview s) × the stage's squared norm.
    """

    def __init__(self, options: WaveletOptions, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        self.wavelet = options.wavelet
        self.in_coefficients = options.domain == "coefficients"
        _check_wavelet(self.wavelet, self.in_coefficients)
        self.levels = _levels_between(facts.stage_sizes)

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
        bands = 4 ** self.levels[stage_index] - 1
        return (bands * self.facts.channels, *sizes[stage_index - 1])

    def to_stage(self, residual: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Return the detail bands of the residual, which are those of the preview: its own low band is empty."""
        if not self.in_coefficients or stage_index == 0:
            return residual
        low, bands = residual, []
        for level in reversed(range(self.levels[stage_index])):
            mixed = apply_to_axes(low, analysis_matrix, self._whole_axes(low.shape[2:]))
            low, vertical, horizontal, diagonal = rearrange(mixed, "b c (h u) (w v) -> (u v) b c h w", u=2, v=2)
            details = torch.stack([horizontal, vertical, diagonal], dim=1)
            block = 2**level  # finer bands by space-to-depth
            bands.append(rearrange(details, "b k c (h p) (w q) -> b (k p q c) h w", p=block, q=block))
        return torch.cat(bands[::-1], dim=1)

    def from_stage(self, stage: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Synthesise the residual from its detail bands and an empty low band."""
        if not self.in_coefficients or stage_index == 0:
            return stage
        levels, channels = self.levels[stage_index], self.facts.channels
        low = stage.new_zeros(len(stage), channels, *stage.shape[2:])
        for level, bands in enumerate(stage.split([3 * channels * 4**level for level in range(levels)], dim=1)):
            details = rearrange(bands, "b (k p q c) h w -> k b c (h p) (w q)", k=3, p=2**level, q=2**level)
            horizontal, vertical, diagonal = details
            mixed = torch.stack([low, vertical, horizontal, diagonal])
            mixed = rearrange(mixed, "(u v) b c h w -> b c (h u) (w v)", u=2, v=2)
            low = apply_to_axes(mixed, synthesis_matrix, self._whole_axes(mixed.shape[2:]))
        return low

    def _axes(self, fine: Sequence[int], coarse: Sequence[int]) -> list[tuple[str, int, int]]:
        """Arguments of a low-pass matrix per axis: wavelet, length, levels."""
        levels = (fine[0] // coarse[0]).bit_length() - 1
        # Haar's filters do not overlap: small blocks instead of the whole axis.
        return [(self.wavelet, 2**levels if _is_haar(self.wavelet) else length, levels) for length in fine]

    def _whole_axes(self, lengths: Sequence[int]) -> list[tuple[str, int]]:
        return [(self.wavelet, 2 if _is_haar(self.wavelet) else length) for length in lengths]


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


def _levels_between(sizes: Sequence[Size]) -> list[int]:
    """Levels of each stage over the one before, 0 for the first. StageSizeError unless ratios are powers of two."""
    levels = [0]
    for coarse, fine in pairwise(sizes):
        ratio = fine[0] // coarse[0]
        doubled = ratio >= 2 and ratio & (ratio - 1) == 0
        if len(fine) != 2 or not doubled or any(c * ratio != f for c, f in zip(coarse, fine, strict=True)):
            raise StageSizeError(_which_would_work(sizes))
        levels.append(ratio.bit_length() - 1)
    return levels


def _which_would_work(sizes: Sequence[Size]) -> str:
    """Message: the nearest sizes in ratios of powers of two."""
    steps = [max(1, round(math.log2(f[0] / c[0]))) for c, f in pairwise(sizes)]
    coarsest = [max(1, round(length / 2 ** sum(steps))) for length in sizes[-1]]
    nearest = [tuple(length << sum(steps[:stage]) for length in coarsest) for stage in range(len(sizes))]
    return (
        f"dwt: each stage must be 2, 4, 8 … times the one before, the same along height and width, "
        f"got {', '.join(map(format_size, sizes))}; the nearest that work: {', '.join(map(format_size, nearest))}"
    )
