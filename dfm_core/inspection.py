"""Numbers about a decomposition of one image or clip, for `dfm decompose` and for notebooks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm_core.interfaces.decomposition import Decomposition
from dfm_core.stages import StageLayout, Stages


@dataclass(frozen=True)
class StageNumbers:
    """One stage of one image or clip.

    energy: its share of the sum of squares over all stages, every stage enlarged to the finest one's pixels. For
    orthogonal transforms (dct, orthogonal wavelets) this is the share of the image's energy.
    """

    stage: int
    resolution: tuple[int, ...]
    shape: tuple[int, ...]
    rms: float
    std: float
    energy: float


@dataclass(frozen=True)
class DecompositionReport:
    """A decomposed image or clip: its stages, its cumulative previews, and how exactly it came back.

    stages, previews: with a batch dimension of 1. largest_error, mean_error: absolute, of values in [-1, 1].
    """

    layout: StageLayout
    stages: Stages
    previews: tuple[Tensor, ...]
    numbers: tuple[StageNumbers, ...]
    largest_error: float
    mean_error: float


@torch.no_grad()
def inspect_decomposition(decomposition: Decomposition, image: Tensor) -> DecompositionReport:
    """Decompose and recompose an image (1, C, H, W) or a clip (1, C, T, H, W) in [-1, 1] and measure each stage."""
    layout = decomposition.layout(image.shape[1:])
    stages = decomposition.decompose(image)
    previews = tuple(decomposition.recompose(stages[: index + 1]) for index in range(len(stages)))
    squares = [float(stage.double().square().sum()) for stage in stages]
    finest = math.prod(layout[-1].resolution)
    energies = [square * finest / math.prod(entry.resolution) for entry, square in zip(layout, squares, strict=True)]
    numbers = tuple(
        StageNumbers(
            stage=index + 1,
            resolution=entry.resolution,
            shape=entry.shape,
            rms=(square / stage.numel()) ** 0.5,
            std=float(stage.double().std(correction=0)),
            energy=energy / max(sum(energies), 1e-30),
        )
        for index, (entry, stage, square, energy) in enumerate(zip(layout, stages, squares, energies, strict=True))
    )
    error = (previews[-1] - image).abs()
    return DecompositionReport(layout, stages, previews, numbers, float(error.max()), float(error.mean()))
