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
from dfm_plugins.decompositions.separable import Matrix, apply_to_axes, blocks_along, tensor_of
from dfm_plugins.decompositions.specs import CosineOptions


class CosineTransform(ResidualPyramid):
    """Keep the lowest cosine coefficients and transform back at the smaller size.

    Whole image (`block: null`): any ratio, any number of spatial dimensions. Blocks of b along the d axes that change:
    stage s keeps the lowest n coefficients of b along each of them, so its preview has n/b of the full size, n = 1…b.
    In the coefficient domain stage s holds the coefficients of its n^d (n×n of an image) outside the previous stage's,
    low frequencies first, C channels for each, at 1/b of the full size. They are those of the orthonormal DCT of
    *preview s*, which has unit gain: so the mean of the data stays the mean of every preview, and the squared norm of
    the input is the sum over stages of (pixels of the input / pixels of preview s) × the stage's squared norm.
    """

    def __init__(self, options: CosineOptions, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        self.block = options.block
        self.in_coefficients = options.domain == "coefficients"
        sizes = self.plain_sizes(facts.stage_sizes)
        # Which axes are cut into blocks: those whose length changes, or all where there is one stage.
        changes = tuple(coarsest != finest for coarsest, finest in zip(sizes[0], sizes[-1], strict=True))
        self.blocked = changes if any(changes) else (True,) * len(changes)
        if self.block is not None:
            _check_block_sizes(self, self.block)
            axis = self.blocked.index(True)
            # n of each stage: its size within a block.
            self.kept = [size[axis] * self.block // sizes[-1][axis] for size in sizes]
        self.layout((facts.channels, *facts.stage_sizes[-1]))

    def scaled_sizes(self, spatial: Sequence[int]) -> tuple[Size, ...]:
        """Return the stage sizes for an input of size `spatial`. Raises StageShapeError if blocks do not fill it."""
        scaled = super().scaled_sizes(spatial)
        finest = self.plain_sizes(scaled)[-1]
        lengths = zip(finest, self._blocked(finest), strict=True)
        if self.block is not None and any(length % self.block for length, blocked in lengths if blocked):
            raise StageShapeError(
                f"dct of blocks of {self.block}: input of size {format_size(tuple(spatial))} is not divisible by it"
            )
        return scaled

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
        axes = self._blocked(sizes[-1])
        added = self._kept(stage_index) ** sum(axes) - self._kept(stage_index - 1) ** sum(axes)
        lengths = zip(sizes[-1], axes, strict=True)
        return (added * self.facts.channels, *(n // self.block if blocked else n for n, blocked in lengths))

    def to_stage(self, residual: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Return the residual's coefficients as channels, grouped by frequency."""
        if not self.in_coefficients:
            return residual
        axes, kept = self._blocked(sizes[-1]), self._kept(stage_index)
        spectrum = apply_to_axes(residual, dct_matrix, [(kept,) if blocked else None for blocked in axes])
        blocks = blocks_along(axes, kept)
        pattern = f"b c {blocks.whole} -> b ({blocks.inside}) c {blocks.outside}"
        bands = rearrange(spectrum, pattern, **blocks.named)
        return bands.index_select(1, self._frequencies(stage_index, sum(axes), residual.device)).flatten(1, 2)

    def from_stage(self, stage: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Put the coefficients back into their blocks and transform them to the image."""
        if not self.in_coefficients:
            return stage
        axes, kept = self._blocked(sizes[-1]), self._kept(stage_index)
        added = stage.unflatten(1, (-1, self.facts.channels))
        bands = added.new_zeros(len(added), kept ** sum(axes), *added.shape[2:])
        bands = bands.index_copy(1, self._frequencies(stage_index, sum(axes), stage.device), added)
        blocks = blocks_along(axes, kept)
        pattern = f"b ({blocks.inside}) c {blocks.outside} -> b c {blocks.whole}"
        spectrum = rearrange(bands, pattern, **blocks.named)
        return apply_to_axes(spectrum, inverse_dct_matrix, [(kept,) if blocked else None for blocked in axes])

    def _blocked(self, size: Size) -> tuple[bool, ...]:
        """Which axes of an input of this size are cut into blocks; the first frame of a clip is an image."""
        return self.blocked[-len(size) :]

    def _kept(self, stage_index: int) -> int:
        """n of a stage, 0 before the first."""
        return self.kept[stage_index] if stage_index >= 0 else 0

    def _frequencies(self, stage_index: int, dimensions: int, device: torch.device) -> Tensor:
        arguments = (self._kept(stage_index), self._kept(stage_index - 1), dimensions)
        return tensor_of(added_frequencies, arguments, torch.int64, device)


def dct_matrix(length: int) -> Matrix:
    """Orthonormal DCT-II (length, length), rows the frequencies: times x it is `scipy.fft.dct(x, norm="ortho")`."""
    unit_vectors = torch.eye(length, dtype=torch.float64)
    return np.ascontiguousarray(torch_dct.dct(unit_vectors, norm="ortho").T.numpy())


def inverse_dct_matrix(length: int) -> Matrix:
    """Inverse of `dct_matrix`: its transpose, in memory order."""
    return np.ascontiguousarray(dct_matrix(length).T)


def added_frequencies(kept: int, before: int, dimensions: int) -> NDArray[np.int64]:
    """Indices of the coefficients of kept^dimensions outside of before^dimensions, those of a low sum first.

    The coefficient (u, v) of an image has the index u·kept + v.
    """
    frequencies = itertools.product(range(kept), repeat=dimensions)
    added = [(sum(frequency), index) for index, frequency in enumerate(frequencies) if max(frequency) >= before]
    return np.array([index for _, index in sorted(added)])


def resizing_matrix(before: int, after: int) -> Matrix:
    """Matrix (after, before): the DCT, its lowest coefficients (or zeros appended), the inverse DCT, with unit gain."""
    kept = min(before, after)
    # The orthonormal DC coefficient is √length times the mean.
    return np.sqrt(after / before) * dct_matrix(after)[:kept].T @ dct_matrix(before)[:kept]


def _resize(x: Tensor, size: Size, blocks: Sequence[int]) -> Tensor:
    """Resize every block: `blocks` of them along each axis."""
    lengths = zip(x.shape[2:], size, blocks, strict=True)
    arguments = [None if before == after else (before // count, after // count) for before, after, count in lengths]
    return apply_to_axes(x, resizing_matrix, arguments)


def _check_block_sizes(decomposition: CosineTransform, block: int) -> None:
    """Raise StageSizeError unless every size is n/block of the finest, the same n along the axes that change."""
    sizes = decomposition.plain_sizes(decomposition.facts.stage_sizes)
    finest, axes = sizes[-1], decomposition.blocked
    nearest = [
        max(1, round(length / block)) if blocked else length for length, blocked in zip(finest, axes, strict=True)
    ]
    possible = [
        tuple(length * n if blocked else length for length, blocked in zip(nearest, axes, strict=True))
        for n in range(1, block + 1)
    ]
    if len(finest) in (2, 3) and possible[-1] == finest and all(size in possible for size in sizes):
        return
    got = ", ".join(map(format_size, decomposition.facts.stage_sizes))
    would_work = ", ".join(format_size(decomposition.whole_size(size)) for size in possible)
    raise StageSizeError(
        f"dct of blocks of {block}: stages must be n/{block} of the finest, n = 1…{block}, with one n along the axes "
        f"that change, got {got}; these would work: {would_work} (the last as the finest)"
    )
