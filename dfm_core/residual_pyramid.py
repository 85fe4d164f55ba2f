"""Decomposition from a pair (down, up): what most decompositions need to write (paper eq. 2)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from itertools import pairwise

import torch
from pydantic import BaseModel
from torch import Tensor

from dfm_core.errors import StageShapeError, StageSizeError
from dfm_core.interfaces.decomposition import Decomposition, DecompositionFacts
from dfm_core.stages import Size, StageLayout, Stages, StageShape, format_size
from dfm_core.time_grid import is_causal, on_frames, plain_sizes, shape_on_frames


class ResidualPyramid(Decomposition):
    """Stages are the coarsest low-pass and, at each finer size, what the enlarged coarser one misses.

    X^1 = down(x, 1), X^s = down(x, s) − up(down(x, s−1), s); preview s = up(preview s−1, s) + X^s. Exact for *any*
    pair, linear or not. A subclass writes `down` and `up`, and checks in `__init__` that the sizes are possible for it.
    Both run in float32 (or float64, as the input), outside autocast; half precision is converted on the way in and out.
    Both get images, or clips whose number of frames changes; other clips come as a batch of their frames. On a causal
    time grid the first frame comes as an image, and the others as a clip. The option `time_grid` (TimeGrid in
    dfm_core.plugins) chooses the grid; without it the frame counts say which.
    A transform that wants other coordinates than the residual image also overrides `stage_shape`, `to_stage` and
    `from_stage`; one whose enlargement depends on more than the two sizes overrides `expand`.
    """

    def __init__(self, options: BaseModel, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        _check_growing(facts.stage_sizes)
        self._causal = is_causal(getattr(options, "time_grid", "auto"), facts.stage_sizes)

    @property
    def causal(self) -> bool:
        """Whether the frames after the first keep the ratios, the first being a picture in every stage: 3 of 5 frames.

        False for images and where all stages have as many frames.
        """
        return self._causal

    def plain_sizes(self, sizes: Sequence[Size]) -> list[Size]:
        """Return the sizes of all stages as `down` and `up` see them; for what a subclass checks in `__init__`.

        (height, width) where all have as many frames; on a causal grid, where the first frame comes on its own at the
        same heights and widths, those of the others.
        """
        return plain_sizes(sizes, self.causal)

    def whole_size(self, size: Size) -> Size:
        """Return the size that users write for one of `plain_sizes`: with the frames, and with the first of them."""
        if len(size) < len(self.facts.stage_sizes[-1]):
            return (self.facts.stage_sizes[-1][0], *size)
        return (size[0] + 1, *size[1:]) if self.causal else size

    @abstractmethod
    def down(self, x: Tensor, size: Size) -> Tensor:
        """Low-pass x (B, C, *spatial) to (B, C, *size), size < spatial, with unit gain: a constant stays itself.

        Along an axis whose length stays (as frames may), nothing changes.
        """

    @abstractmethod
    def up(self, x: Tensor, size: Size) -> Tensor:
        """Enlarge x (B, C, *spatial) to (B, C, *size), size > spatial, with unit gain."""

    def expand(self, preview: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Enlarge the preview before stage `stage_index` (from 0) to (B, C, *sizes[stage_index]).

        sizes: of all stages, at the size of this input.
        """
        return self.up(preview, sizes[stage_index])

    def stage_shape(self, sizes: Sequence[Size], stage_index: int) -> tuple[int, ...]:
        """Return (C_s, *spatial_s) of a stage tensor. sizes: of the previews of all stages; stage_index: from 0."""
        return (self.facts.channels, *sizes[stage_index])

    def to_stage(self, residual: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Write a residual image (B, C, *sizes[stage_index]) as the stage's tensor (B, C_s, *spatial_s).

        For stage 0 the image is the coarsest low-pass.
        """
        return residual

    def from_stage(self, stage: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        """Return the residual image (B, C, *sizes[stage_index]) of a stage's tensor; linear inverse of `to_stage`."""
        return stage

    def layout(self, shape: Sequence[int]) -> StageLayout:
        """Return the layout for an input of `shape` = (C, *spatial). Raises StageShapeError if it cannot be split."""
        dimensions = len(self.facts.stage_sizes[-1])
        if len(shape) != 1 + dimensions or shape[0] != self.facts.channels:
            raise StageShapeError(
                f"expected an input of {self.facts.channels} channels and {dimensions} spatial dimensions, "
                f"got {tuple(shape)} (without the batch)"
            )
        sizes = self.scaled_sizes(shape[1:])
        return StageLayout(tuple(StageShape(size, self._shape(sizes, i)) for i, size in enumerate(sizes)))

    def decompose(self, x: Tensor) -> Stages:
        """Split x (B, C, *spatial) into S tensors with the shapes of `layout(x.shape[1:])`."""
        sizes = [stage.resolution for stage in self.layout(x.shape[1:])]
        with exact_arithmetic(x.device):
            stages = on_frames(self._split, [x.to(working_dtype(x))], sizes, self.causal)
            return tuple(stage.to(x.dtype) for stage in stages)

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        """Put the first k = len(stages) stages together: (B, C, *resolution of stage k), 1 ≤ k ≤ S.

        Any tensors of the declared shapes are accepted: generated stages need not be the pyramid of an image.
        """
        sizes = self._sizes_of(stages)
        with exact_arithmetic(stages[0].device):
            (preview,) = on_frames(self._join, [s.to(working_dtype(s)) for s in stages], sizes, self.causal)
            return preview.to(stages[0].dtype)

    def _shape(self, sizes: Sequence[Size], stage_index: int) -> tuple[int, ...]:
        return shape_on_frames(lambda some_sizes: self.stage_shape(some_sizes, stage_index), sizes, self.causal)

    def _split(self, tensors: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """Split one tensor into stages."""
        (fine,) = tensors
        lows = [*(fine if fine.shape[2:] == size else self.down(fine, size) for size in sizes[:-1]), fine]
        residuals = [lows[0], *(lows[i] - self._expanded(lows[i - 1], sizes, i) for i in range(1, len(lows)))]
        return [self.to_stage(residual, sizes, i) for i, residual in enumerate(residuals)]

    def _join(self, stages: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """Put stages together to one tensor."""
        details = [self.from_stage(stage, sizes, i) for i, stage in enumerate(stages)]
        preview = details[0]
        # Chained, not summed: enlarging 16->32->64 is not 16->64 (bilinear: 0.1 apart).
        for index, detail in enumerate(details[1:], start=1):
            preview = self._expanded(preview, sizes, index) + detail
        return [preview]

    def _expanded(self, preview: Tensor, sizes: Sequence[Size], stage_index: int) -> Tensor:
        # The first frame of a causal clip stays as it is where only the number of frames changes; whole stages build on
        # nothing, not even on that.
        stays = preview.shape[2:] == sizes[stage_index] and not self.whole_stages
        return preview if stays else self.expand(preview, sizes, stage_index)

    def _sizes_of(self, stages: Sequence[Tensor]) -> tuple[Size, ...]:
        """Preview sizes of all S stages, from the shapes of the first few. Raises StageShapeError if these disagree."""
        if not 1 <= len(stages) <= self.num_stages:
            raise StageShapeError(f"expected 1 to {self.num_stages} stages, got {len(stages)}")
        built = self.layout((self.facts.channels, *self.facts.stage_sizes[-1]))
        got, want = stages[0].shape[2:], built[0].shape[1:]
        if len(got) != len(want) or 0 in got:
            raise StageShapeError(f"stage 1: expected (B, C, *{len(want)} spatial sizes), got {tuple(stages[0].shape)}")
        scaled = [self._scaled_back(axis, *lengths) for axis, lengths in enumerate(zip(got, want, strict=True))]
        if any(length.denominator != 1 for length in scaled):
            raise StageShapeError(
                f"stage 1 of size {format_size(got)} belongs to no input: built for {format_size(want)}, "
                f"with the finest stage at {format_size(self.facts.stage_sizes[-1])}"
            )
        layout = self.layout((self.facts.channels, *map(int, scaled)))
        layout.prefix(len(stages)).check(stages)
        if len({len(stage) for stage in stages}) != 1:
            raise StageShapeError(f"stages of different batch sizes: {[len(stage) for stage in stages]}")
        return tuple(stage.resolution for stage in layout)

    def _scaled_back(self, axis: int, got: int, want: int) -> Fraction:
        """Length of an input whose first stage has `got` elements along an axis, where this was built for `want`."""
        finest = self.facts.stage_sizes[-1][axis]
        if want == finest:
            return Fraction(got)
        apart = int(self.causal and axis == 0)
        return Fraction(got - apart, want - apart) * (finest - apart) + apart


def working_dtype(x: Tensor) -> torch.dtype:
    """Dtype to compute in for x of any shape: float64 for float64, else float32.

    On a CPU bfloat16 lacks antialiased resizing and the FFT.
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Switch off autocast and TF32: with them a matrix product here would lose 10 of its 24 bits."""
    precision = torch.get_float32_matmul_precision()
    has_autocast = torch.amp.is_autocast_available(device.type)
    with torch.autocast(device.type, enabled=False) if has_autocast else nullcontext():
        try:
            if precision != "highest":
                torch.set_float32_matmul_precision("highest")
            yield
        finally:
            if precision != "highest":
                torch.set_float32_matmul_precision(precision)


def _check_growing(sizes: Sequence[Size]) -> None:
    """Raise StageSizeError unless the sizes are positive, of one dimension and grow from coarse to fine."""
    shown = ", ".join(map(format_size, sizes))
    if not sizes or len({len(size) for size in sizes}) != 1 or any(length < 1 for size in sizes for length in size):
        raise StageSizeError(
            f"stage sizes must be one or more positive sizes of the same dimension, got {shown or 'none'}"
        )
    if not _grow(sizes):
        ordered = sorted(set(sizes))
        hint = f"; for example {', '.join(map(format_size, ordered))}" if _grow(ordered) else ""
        raise StageSizeError(f"stage sizes must grow from coarse to fine, got {shown}{hint}")


def _grow(sizes: Sequence[Size]) -> bool:
    """Whether every size differs from the one before and is smaller along no axis."""
    pairs = pairwise(sizes)
    return all(coarse != fine and all(c <= f for c, f in zip(coarse, fine, strict=True)) for coarse, fine in pairs)
