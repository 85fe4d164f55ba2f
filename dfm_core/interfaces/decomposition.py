"""Kind `decomposition`: an invertible split of data into stages, coarse to fine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel
from torch import Tensor

from dfm_core.errors import StageShapeError
from dfm_core.stages import Size, StageLayout, Stages, format_size


@dataclass(frozen=True)
class DecompositionFacts:
    """What core computes for a decomposition.

    stage_sizes: preview size of each stage in the decomposition's own input units (latents, not pixels), coarsest
    first, strictly growing; (height, width), of clips (frames, height, width). channels: C of the input.
    """

    stage_sizes: tuple[Size, ...]
    channels: int


class Decomposition(ABC):
    """Split (B, C, *spatial) into S stages and put them together again.

    Laws: `recompose(decompose(x)) == x` to float precision; `recompose(stages[:k])` is the preview at stage k's
    resolution, and a constant stays itself in it; `recompose` accepts arbitrary tensors of the declared shapes, since
    generation starts from noise; samples do not influence each other; gradients flow; nothing is random; inputs are not
    mutated; dtype and device follow the input; autocast changes nothing. Built once at `facts.stage_sizes`, and refuses
    in `__init__` those that it cannot split, with StageSizeError; other inputs whose sizes keep the same ratios work.
    Of clips (B, C, frames, height, width) with as many frames in every stage, each frame is split on its own; on a
    `causal` time grid, so is the first frame.
    Most decompositions are a `ResidualPyramid` (dfm_core.residual_pyramid): a pair (down, up).
    """

    whole_stages: bool = False
    """Whether every stage is the whole picture at its size: `recompose` then returns the last of those it is given."""

    def __init__(self, options: BaseModel, facts: DecompositionFacts) -> None:
        self.options = options
        self.facts = facts

    @property
    def num_stages(self) -> int:
        """Number of stages S."""
        return len(self.facts.stage_sizes)

    @property
    def causal(self) -> bool:
        """Whether the frames after the first keep the ratios, the first being a picture in every stage: 3 of 5 frames.

        False for images and where all stages have as many frames.
        """
        return False

    @abstractmethod
    def layout(self, shape: Sequence[int]) -> StageLayout:
        """Return the layout for an input of `shape` = (C, *spatial). Raises StageShapeError if it cannot be split."""

    @abstractmethod
    def decompose(self, x: Tensor) -> Stages:
        """Split x (B, C, *spatial) into S tensors (B, C_s, *spatial_s), with the shapes of `layout(x.shape[1:])`."""

    @abstractmethod
    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        """Put the first k = len(stages) stages together: (B, C, *resolution of stage k), 1 ≤ k ≤ S.

        Raises StageShapeError for tensors of other shapes than declared.
        """

    def scaled_sizes(self, spatial: Sequence[int]) -> tuple[Size, ...]:
        """Return the stage sizes for an input of size `spatial`, in the ratios of `facts.stage_sizes`.

        Raises StageShapeError if a ratio does not give whole numbers at this size.
        """
        finest = self.facts.stage_sizes[-1]
        if len(spatial) != len(finest) or min(spatial) < 1:
            raise StageShapeError(f"expected {len(finest)} spatial dimensions, got size {tuple(spatial)}")
        return tuple(self._scaled_size(spatial, stage) for stage in self.facts.stage_sizes)

    def _scaled_size(self, spatial: Sequence[int], stage: Size) -> Size:
        finest, size = self.facts.stage_sizes[-1], []
        for axis, (length, part, whole) in enumerate(zip(spatial, stage, finest, strict=True)):
            apart = int(self.causal and axis == 0 and part != whole)
            scaled, rest = divmod((length - apart) * (part - apart), whole - apart)
            if rest:
                less = " (less the first frame)" if self.causal else ""
                raise StageShapeError(
                    f"input of size {format_size(spatial)}: stage {format_size(stage)} of {format_size(finest)} is not "
                    f"a whole size there; use a size divisible by the ratio between the stages{less}"
                )
            size.append(scaled + apart)
        return tuple(size)
