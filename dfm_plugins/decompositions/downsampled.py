"""The picture, or clip, at every size, none of them a residual: the stages of cascaded models and of Pyramidal Flow."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dfm_core.errors import StageSizeError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.residual_pyramid import ResidualPyramid
from dfm_core.stages import Size, format_size
from dfm_plugins.decompositions.specs import DownsampledOptions


class Downsampled(ResidualPyramid):
    """Stage s is the mean of x over the area of each of its pixels; `recompose` returns the last stage given.

    Of a clip with fewer frames, over their times as well.
    """

    whole_stages = True

    def __init__(self, options: DownsampledOptions, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        if len(facts.stage_sizes[-1]) not in (2, 3):
            sizes = ", ".join(map(format_size, facts.stage_sizes))
            raise StageSizeError(
                "downsampled splits images and clips: expected sizes as height x width or frames x height x width, "
                f"got {sizes}"
            )

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Average over areas."""
        return F.interpolate(x, size, mode="area")

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Return zeros: nothing of a coarser stage is left out of a finer one."""
        return x.new_zeros(*x.shape[:2], *size)
