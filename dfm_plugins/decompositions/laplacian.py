"""Laplacian pyramid over a choice of resampling filters."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from dfm_core.errors import StageSizeError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.residual_pyramid import ResidualPyramid
from dfm_core.stages import Size
from dfm_plugins.decompositions.specs import LaplacianOptions


class Laplacian(ResidualPyramid):
    """Residual pyramid of images: any ratio between the stages. Burt and Adelson 1983; the paper's decomposition.

    Its details are redundant (as many numbers as pixels, at every size), so decompose(recompose(z)) differs from z.
    """

    def __init__(self, options: LaplacianOptions, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        if len(facts.stage_sizes[-1]) != 2:
            sizes = ", ".join("x".join(map(str, size)) for size in facts.stage_sizes)
            raise StageSizeError(f"laplacian splits images: expected sizes as height x width, got {sizes}")
        self.filter = options.filter
        self.enlarging = options.up or ("bicubic" if options.filter == "bicubic" else "bilinear")

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Average, antialias or blur to `size`; plain bilinear would see only the central 2x2 of each 4x4 at 4x."""
        if self.filter == "area":
            return F.interpolate(x, size, mode="area")
        if self.filter == "gaussian":
            return _blur_and_subsample(x, size)
        return F.interpolate(x, size, mode=self.filter, antialias=True, align_corners=False)

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Interpolate to `size`."""
        corners = None if self.enlarging == "nearest" else False
        return F.interpolate(x, size, mode=self.enlarging, align_corners=corners)


def _blur_and_subsample(x: Tensor, size: Size) -> Tensor:
    """Gaussian blur of σ = half the ratio, then the values at the centres of the coarse pixels.

    The centre of an even number of pixels lies between two: linear interpolation, so that nothing shifts.
    """
    from kornia.filters import gaussian_blur2d  # 1.7 s

    ratios = [fine / coarse for fine, coarse in zip(x.shape[2:], size, strict=True)]
    # No blur along an axis that keeps its length: a kernel of one pixel.
    radii = [math.ceil(1.5 * ratio) if ratio > 1 else 0 for ratio in ratios]
    kernel_size = (2 * radii[0] + 1, 2 * radii[1] + 1)
    blurred = gaussian_blur2d(x, kernel_size, (ratios[0] / 2, ratios[1] / 2), border_type="replicate")
    return F.interpolate(blurred, size, mode="bilinear", align_corners=False)
