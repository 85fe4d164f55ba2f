"""Laplacian pyramid over a choice of resampling filters."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dfm_core.errors import StageSizeError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.residual_pyramid import ResidualPyramid
from dfm_core.stages import Size, format_size
from dfm_plugins.decompositions.separable import Matrix, apply_along, tensor_of
from dfm_plugins.decompositions.specs import LaplacianOptions


class Laplacian(ResidualPyramid):
    """Residual pyramid of images and clips: any ratio between the stages. Burt and Adelson 1983; the paper's choice.

    Along time, too, it resizes with the chosen filters. Its details are redundant (as many numbers as pixels, at every
    size), so decompose(recompose(z)) differs from z.
    """

    def __init__(self, options: LaplacianOptions, facts: DecompositionFacts) -> None:
        super().__init__(options, facts)
        if len(facts.stage_sizes[-1]) not in (2, 3):
            sizes = ", ".join(map(format_size, facts.stage_sizes))
            raise StageSizeError(
                f"laplacian splits images and clips: expected sizes as height x width or frames x height x width, "
                f"got {sizes}"
            )
        self.filter = options.filter
        self.enlarging = options.up or ("bicubic" if options.filter == "bicubic" else "bilinear")

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Average, antialias or blur to `size`; plain bilinear would see only the central 2x2 of each 4x4 at 4x."""
        return _resize_time(_resize_frames(x, size, _shrink, self.filter), size, _shrink, self.filter)

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Interpolate to `size`."""
        # Time first: frames are small before.
        return _resize_frames(_resize_time(x, size, _enlarge, self.enlarging), size, _enlarge, self.enlarging)


def _shrink(x: Tensor, size: Size, mode: str) -> Tensor:
    """Low-pass images (B, C, H, W) to `size`."""
    if mode == "area":
        return F.interpolate(x, size, mode="area")
    if mode == "gaussian":
        return _blur_and_subsample(x, size)
    return F.interpolate(x, size, mode=mode, antialias=True, align_corners=False)


def _enlarge(x: Tensor, size: Size, mode: str) -> Tensor:
    """Interpolate images (B, C, H, W) to `size`."""
    return F.interpolate(x, size, mode=mode, align_corners=None if mode == "nearest" else False)


Resize = Callable[[Tensor, Size, str], Tensor]


def _resize_frames(x: Tensor, size: Size, resize: Resize, mode: str) -> Tensor:
    """Resize an image, or every frame of a clip (B, C, T, H, W), to the height and width of `size`."""
    if x.shape[-2:] == size[-2:]:
        return x
    if x.ndim == 4:
        return resize(x, size, mode)
    frames = resize(x.movedim(2, 1).flatten(0, 1), size[-2:], mode)
    return frames.unflatten(0, (len(x), x.shape[2])).movedim(1, 2)


def _resize_time(x: Tensor, size: Size, resize: Resize, mode: str) -> Tensor:
    """Resize a clip (B, C, T, H, W) to the number of frames of `size`; an image stays itself."""
    if x.ndim == 4 or x.shape[2] == size[0]:
        return x
    return apply_along(x, tensor_of(_matrix, (x.shape[2], size[0], resize, mode), x.dtype, x.device), axis=2)


def _matrix(before: int, after: int, resize: Resize, mode: str) -> Matrix:
    """Matrix (after, before) of a filter along one axis: what it makes of unit vectors, the columns of one image."""
    # F.interpolate has neither bicubic nor antialiasing for clips; and images one pixel wide it antialiases wrongly.
    columns = torch.eye(before, dtype=torch.float64)[None, None]
    return np.ascontiguousarray(resize(columns, (after, before), mode)[0, 0].numpy())


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
