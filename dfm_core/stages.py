"""The words for a decomposed batch: `Stages` (the tensors) and `StageLayout` (their declared shapes).

Below them the parts of a batch whose samples go different ways through a network: `rows_where` and `by_finest_stage`
say which rows, `pick` takes them, `put` puts them back.

`Size` is (height, width), of clips (frames, height, width); `format_size` writes one as users do: "64", "48x64".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm_core.config.sizes import Size
from dfm_core.config.sizes import write_size as format_size
from dfm_core.errors import StageShapeError

__all__ = [
    "Size",
    "StageLayout",
    "StageShape",
    "Stages",
    "by_finest_stage",
    "finest_visible",
    "format_size",
    "pick",
    "put",
    "rows_where",
]

Stages = tuple[Tensor, ...]
"""One tensor a stage, stages[0] the coarsest; each (B, C_s, *spatial_s)."""


@dataclass(frozen=True)
class StageShape:
    """One stage: the resolution of the preview that ends with it, and the shape of its own tensor.

    resolution: spatial size of the preview. shape: (C_s, *spatial_s), without the batch. The two differ in the
    coefficient domain: the details of one DWT level are (3C, H/2, W/2) for a preview of H × W.
    """

    resolution: Size
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements of this stage in one sample."""
        total = 1
        for length in self.shape:
            total *= length
        return total


@dataclass(frozen=True)
class StageLayout:
    """The shapes of all stages of one decomposition at one input size, coarse to fine; it has a length and indices."""

    stages: tuple[StageShape, ...]

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[StageShape]:
        return iter(self.stages)

    def __getitem__(self, index: int) -> StageShape:
        return self.stages[index]

    def prefix(self, num_stages: int) -> StageLayout:
        """Layout of the first `num_stages` stages."""
        return StageLayout(self.stages[:num_stages])

    def check(self, stages: Sequence[Tensor]) -> None:
        """Raise StageShapeError unless `stages` (each with a batch dimension first) have these shapes."""
        if len(stages) != len(self):
            raise StageShapeError(f"expected {len(self)} stages from the layout, got {len(stages)}")
        for index, (stage, want) in enumerate(zip(stages, self.stages, strict=True)):
            if tuple(stage.shape[1:]) != want.shape:
                raise StageShapeError(
                    f"stage {index + 1}: expected (B, {', '.join(map(str, want.shape))}) from the layout, "
                    f"got {tuple(stage.shape)}"
                )


def finest_visible(visible: Tensor) -> Tensor:
    """Index of the finest visible stage of each sample. visible: (B, S) bool. Returns (B,) int64."""
    return torch.where(visible, torch.arange(visible.shape[1], device=visible.device), 0).amax(1)


def rows_where(chosen: Tensor, device: torch.device) -> Tensor:
    """Indices (n,) of the true entries of chosen (B,), on `device`. On a GPU this waits for `chosen` to be there."""
    return chosen.nonzero().flatten().to(device)


def by_finest_stage(visible: Tensor, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Yield each stage that is the finest visible one of some samples, as its index, and their rows (n,) on `device`.

    visible: (B, S) bool.
    """
    finest = finest_visible(visible)
    for index in range(visible.shape[1]):
        rows = rows_where(finest == index, device)
        if len(rows):
            yield index, rows


def pick(tensors: Sequence[Tensor], rows: Tensor) -> Stages:
    """Take rows (n,) of each tensor (B, …); the tensors themselves where that is all of them."""
    return tuple(x if len(rows) == len(x) else x[rows] for x in tensors)


def put(whole: Tensor, rows: Tensor, part: Tensor) -> Tensor:
    """Return `whole` (B, …) with `part` (n, …) in rows (n,)."""
    return part if len(rows) == len(whole) else whole.index_copy(0, rows, part)
