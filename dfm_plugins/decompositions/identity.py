"""One stage, the data itself: with it Decomposable Flow Matching is plain Flow Matching."""

from __future__ import annotations

from torch import Tensor

from dfm_core.errors import StageSizeError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.plugins import Options
from dfm_core.residual_pyramid import ResidualPyramid
from dfm_core.stages import Size, format_size


class Identity(ResidualPyramid):
    """The decomposition of S = 1. Raises StageSizeError for more stages."""

    def __init__(self, options: Options, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        if self.num_stages > 1:
            raise StageSizeError(
                f"identity has one stage, got {', '.join(map(format_size, facts.stage_sizes))}: use the one stage "
                f"{format_size(facts.stage_sizes[-1])}, or another decomposition"
            )

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Return x: there is no other size."""
        return x

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Return x: there is no other size."""
        return x
