"""Discrete cosine transform, of the whole image or of small blocks (as in JPEG)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch_dct
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from dfm_core.errors import StageShapeError, StageSizeError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.residual_pyramid import ResidualPyramid
from dfm_core.stages import Size, format_size
from dfm_plugins.decompositions.separable import Matrix, apply_to_axes, tensor_of
from dfm_plugins.decompositions.specs import CosineOptions


class CosineTransform(ResidualPyramid):
    """Keep the lowest cosine coefficients and transform back at the smaller size.

    Whole image (`block: null`): any ratio, any number of spatial dimensions. Blocks of b: stage s keeps the lowest
    n×n of every b×b block, so its preview has n/b of the full size, n = 1…b. In the coefficient domain stage s holds
    the coefficients of its n×n square outside the previous stage's, low frequencies first, C channels for each, at 1/b
    of the full size. They are those of the orthonormal DCT of *preview s*, which has unit gain: so the mean of the data
    stays the mean of every preview, and the squared norm of the input is the sum over stages of (pixels of the input /
    pixels of preview s) × the stage's squared norm.
    """

    def __init__(self, options: CosineOptions, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        self.block = options.block
        self.in_coefficients = options.domain == "coefficients"
        if self.block is not None:
            _check_block_sizes(self.block, facts.stage_sizes)
            # n of each stage: its size within a block.
            self.kept = [size[0] * self.block // facts.stage_sizes[-1][0] for size in facts.stage_sizes]

    def scaled_sizes(self, spatial: Sequence[int]) -> tuple[Size, ...]:
        """Return the stage sizes for an input of size `spatial`. Raises StageShapeError if blocks do not fill it."""
        if self.block is not None and any(length % self.block for length in spatial):
            raise StageShapeError(
                f"dct of blocks of {self.block}: input of size {format_size(tuple(spatial))} is not divisible by it"
            )
        return super().scaled_sizes(spatial)

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Keep the lowest coefficients of x, which has the full size."""
        blocks = [1 if self.block is None else length // self.block for length in x.shape[2:]]
        return _resize(x, size, blocks)

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Pad the coefficients of the whole image with zeros."""
        return _resize(x, size, [1] * len(size))

    def expand(self, preview: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Pad the coefficients of every block with zeros: the number of blocks follows from the full size."""
        blocks = [1 if self.block is None else length // self.block for length in sizes[-1]]
        return _resize(preview, sizes[stage_index], blocks)

    def stage_shape(self, sizes: Sequence[Size], stage_index: int) -> tuple[int, ...]:
        """Return the shape of the residual image, or of the coefficients outside the previous square."""
        if not self.in_coefficients or self.block is None:
            return super().stage_shape(sizes, stage_index)
        added = self._kept(stage_index) ** 2 - self._kept(stage_index - 1) ** 2
        return (added * self.facts.channels, *(length // self.block for length in sizes[-1]))

    def to_stage(self, residual: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Return the residual's coefficients as channels, grouped by frequency."""
        if not self.in_coefficients:
            return residual
        kept = self._kept(stage_index)
        spectrum = apply_to_axes(residual, dct_matrix, [(kept,), (kept,)])
        bands = rearrange(spectrum, "b c (h p) (w q) -> b (p q) c h w", p=kept, q=kept)
        return bands.index_select(1, self._frequencies(stage_index, residual.device)).flatten(1, 2)

    def from_stage(self, stage: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Put the coefficients back into their blocks and transform them to the image."""
        if not self.in_coefficients:
            return stage
        kept = self._kept(stage_index)
        added = rearrange(stage, "b (f c) h w -> b f c h w", c=self.facts.channels)
        bands = added.new_zeros(len(added), kept * kept, *added.shape[2:])
        bands = bands.index_copy(1, self._frequencies(stage_index, stage.device), added)
        spectrum = rearrange(bands, "b (p q) c h w -> b c (h p) (w q)", p=kept, q=kept)
        return apply_to_axes(spectrum, inverse_dct_matrix, [(kept,), (kept,)])

    def _kept(self, stage_index: int) -> int:
        """n of a stage, 0 before the first."""
        return self.kept[stage_index] if stage_index >= 0 else 0

    def _frequencies(self, stage_index: int, device: torch.device) -> Tensor:
        arguments = (self._kept(stage_index), self._kept(stage_index - 1))
        return tensor_of(added_frequencies, arguments, torch.int64, device)


def dct_matrix(length: int) -> Matrix:
    """Orthonormal DCT-II (length, length), rows the frequencies: times x it is `scipy.fft.dct(x, norm="ortho")`."""
    unit_vectors = torch.eye(length, dtype=torch.float64)
    return np.ascontiguousarray(torch_dct.dct(unit_vectors, norm="ortho").T.numpy())


def inverse_dct_matrix(length: int) -> Matrix:
    """Inverse of `dct_matrix`: its transpose, in memory order."""
    return np.ascontiguousarray(dct_matrix(length).T)


def added_frequencies(kept: int, before: int) -> NDArray[np.int64]:
    """Indices u·kept + v of the coefficients of the kept×kept square outside the before×before one, low u + v first."""
    added = [(u, v) for u, v in itertools.product(range(kept), repeat=2) if max(u, v) >= before]
    return np.array([u * kept + v for u, v in sorted(added, key=lambda frequency: (sum(frequency), frequency))])


def resizing_matrix(before: int, after: int) -> Matrix:
    """Matrix (after, before): the DCT, its lowest coefficients (or zeros appended), the inverse DCT, with unit gain."""
    kept = min(before, after)
    # The orthonormal DC coefficient is √length times the mean.
    return np.sqrt(after / before) * dct_matrix(after)[:kept].T @ dct_matrix(before)[:kept]


def _resize(x: Tensor, size: Size, blocks: Sequence[int]) -> Tensor:
    """Resize every block: `blocks` of them along each axis."""
    lengths = zip(x.shape[2:], size, blocks, strict=True)
    return apply_to_axes(x, resizing_matrix, [(before // count, after // count) for before, after, count in lengths])


def _check_block_sizes(block: int, sizes: Sequence[Size]) -> None:
    """Raise StageSizeError unless every size is n/block of the finest, the same n along both axes."""
    finest = sizes[-1]
    nearest = tuple(max(1, round(length / block)) for length in finest)
    if len(finest) == 2 and all(length % block == 0 for length in finest):
        possible = [tuple(length * n for length in nearest) for n in range(1, block + 1)]
        if all(size in possible for size in sizes):
            return
    would_work = ", ".join(format_size(tuple(length * n for length in nearest)) for n in range(1, block + 1))
    raise StageSizeError(
        f"dct of blocks of {block}: stages must be n/{block} of the finest, n = 1…{block}, "
        f"got {', '.join(map(format_size, sizes))}; these would work: {would_work} (the last as the finest)"
    )
