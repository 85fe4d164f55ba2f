"""Positions of the tokens of a grid: rotary angles and absolute sin-cos features, for any number of axes.

A *split* says how many frequencies each axis of the grid gets; an axis without any leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from dfm_core.stages import Size

Table = TypeVar("Table")

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of the rotary angles, each (tokens, half a head's features), float32."""

BASE = 10_000.0
"""Ratio between the fastest and (nearly) the slowest frequency, as in RoFormer and in DiT's sin-cos embedding."""


def frequencies(count: int, device: torch.device) -> Tensor:
    """Return `count` angular frequencies, falling geometrically from 1 towards 1/BASE, in radians per token."""
    return BASE ** (-torch.arange(count, device=device, dtype=torch.float32) / max(count, 1))


def rotary_table(grid: Size, split: tuple[int, ...], device: torch.device) -> Rotation:
    """Rotation of each token's queries and keys, from its index along each axis. RoFormer (Su et al. 2021), axial.

    grid: tokens along each axis. split: frequencies of each axis, in sum half of a head's features. Attention then sees
    only differences of positions, so a grid of another size needs no scaling.
    """
    angles = [
        torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies(count, device)
        for length, count in zip(grid, split, strict=True)
    ]
    table = _over_grid(angles)
    return table.cos(), table.sin()


def sincos_table(grid: Size, split: tuple[int, ...], scale: float, device: torch.device) -> Tensor:
    """Absolute position features (tokens, 2 · sum(split)): sine and cosine of each axis' coordinate.

    Along the last two axes, those of a picture, the coordinate of token i of n is scale · (i − (n−1)/2): the centre is
    0 whatever the aspect ratio, and one token is `scale` units along both, so shapes keep their proportions. An axis
    before them is time, and counts tokens from 0: a picture stands where a clip begins.
    """
    features = []
    for axis, (length, count) in enumerate(zip(grid, split, strict=True)):
        coordinate = torch.arange(length, device=device, dtype=torch.float32)
        if axis >= len(grid) - 2:
            coordinate = scale * (coordinate - (length - 1) / 2)
        angles = coordinate[:, None] * frequencies(count, device)
        features.append(torch.cat((angles.sin(), angles.cos()), dim=-1))
    return _over_grid(features)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the pairs (i, i + d/2) of the last axis of x (..., tokens, d), in float32 at least."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _over_grid(tables: Sequence[Tensor]) -> Tensor:
    """Join one (n_axis, d_axis) table an axis into (product of n_axis, sum of d_axis), last axis fastest."""
    grid = [len(table) for table in tables]
    spread = []
    for axis, table in enumerate(tables):
        shape = [1] * len(grid) + [table.shape[-1]]
        shape[axis] = grid[axis]
        spread.append(table.reshape(shape).expand(*grid, -1))
    return torch.cat(spread, dim=-1).flatten(0, -2)


def remembered(build: Callable[..., Table], *arguments: object, like: Tensor) -> Table:
    """Return `build(*arguments, device of like)`, remembered between calls.

    Built anew where memory would be wrong: in a compiled graph, and beside tensors that are not plain (fake tensors).
    """
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return build(*arguments, like.device)
    return _kept(build, arguments, like.device)


@lru_cache(maxsize=64)
def _kept(build: Callable[..., Table], arguments: tuple[object, ...], device: torch.device) -> Table:
    # A table made while sampling in inference mode could not be saved for a later backward pass.
    with torch.inference_mode(False):
        return build(*arguments, device)
