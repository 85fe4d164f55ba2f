"""The picture at every size, none of them a residual: the stages of cascaded models and of Pyramidal Flow."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dfm_core.errors import StageSizeError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.plugins import Options
from dfm_core.residual_pyramid import ResidualPyramid
from dfm_core.stages import Size, format_size


class Downsampled(ResidualPyramid):
    """Stage s is the mean of x over the area of each of its pixels; `recompose` returns the last stage given."""

    whole_stages = True

    def __init__(self, options: Options, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        if len(facts.stage_sizes[-1]) != 2:
            sizes = ", ".join(map(format_size, facts.stage_sizes))
            raise StageSizeError(f"downsampled splits images: expected sizes as height x width, got {sizes}")

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Average over areas."""
        return F.interpolate(x, size, mode="area")

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Return zeros: nothing of a coarser stage is left out of a finer one."""
        return x.new_zeros(*x.shape[:2], *size)
