"""Procedural images of one coloured shape on a backdrop, drawn from signed distances at any size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from dfm_core.errors import UsageError
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from dfm_core.stages import Size
from dfm_plugins.datasets.outlines import OUTLINES
from dfm_plugins.datasets.scene import Pattern, Scene, Surface, compose
from dfm_plugins.datasets.specs import ShapesOptions

Array = NDArray[np.float32]

# Pixels that are painted at once: the arrays of a band stay in the cache of a core.
_BAND_PIXELS = 16_384


class Shapes(Dataset):
    """Images by index, the same for every run, epoch and seed; the classes take turns, so any range is balanced."""

    options: ShapesOptions

    def __init__(self, options: ShapesOptions, facts: DatasetFacts) -> None:
        super().__init__(options, facts)
        if len(facts.size) != 2 or min(facts.size) < 1:
            raise UsageError(f"data set shapes: expected a size height × width, got {facts.size}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the eight shapes."""
        return tuple(OUTLINES)

    def __len__(self) -> int:
        return self.options.train_images if self.facts.split == "train" else self.options.validation_images

    def load(self, index: int, epoch: int) -> Sample:
        """Draw image `index`, (3, H, W) in [-1, 1]; every epoch sees the same one."""
        if not 0 <= index < len(self):
            raise IndexError(f"data set shapes: expected an index below {len(self)}, got {index}")
        name = self.classes[index % len(OUTLINES)]
        scene = compose(f"shapes/{self.facts.split}/{index}", self.options.texture, self.options.rotation)
        return {"image": torch.from_numpy(render(name, scene, self.facts.size)), "label": index % len(OUTLINES)}


def render(name: str, scene: Scene, size: Size) -> Array:
    """Draw a scene with the shape `name` as (3, H, W) float32 in [-1, 1]; the same picture at every size."""
    image = _backdrop(scene.backdrop, size)
    height, width = size
    unit, radius = min(size), scene.radius
    centre_x = radius + scene.place[0] * (width / unit - 2 * radius)
    centre_y = radius + scene.place[1] * (height / unit - 2 * radius)
    radius *= scene.growth
    left, right = _span(centre_x, radius, unit, width)
    top, bottom = _span(centre_y, radius, unit, height)
    x, y = (_centres(left, right, unit) - centre_x) / radius, (centre_y - _centres(top, bottom, unit)) / radius
    x_cos, x_sin = _f32(x * math.cos(scene.angle)), _f32(x * -math.sin(scene.angle))
    y_sin, y_cos = _f32(y * math.sin(scene.angle)), _f32(y * math.cos(scene.angle))
    for rows in _bands(bottom - top, right - left):
        own_x, own_y = np.add.outer(y_sin[rows], x_cos), np.add.outer(y_cos[rows], x_sin)
        # Coverage of a pixel: 1/2 on the outline, falling from 1 to 0 over one pixel across it.
        coverage = OUTLINES[name](own_x, own_y)
        coverage *= np.float32(-radius * unit)
        coverage += np.float32(0.5)
        np.minimum(np.maximum(coverage, 0, out=coverage), 1, out=coverage)  # np.clip takes thrice the time
        _paint(image[:, top + rows.start : top + rows.stop, left:right], coverage, scene.fill, own_x, own_y)
    return image


def _paint(region: Array, coverage: Array, fill: Surface, x: Array, y: Array) -> None:
    """Blend the fill into `region` (3, h, w), which is changed, by `coverage` (h, w)."""
    paint = _f32([2 * base - 1 for base in fill.base])[:, None, None] - region
    if fill.pattern is not None:
        paint += _values(fill.pattern, x, y) * _f32([2 * change for change in fill.change])[:, None, None]
    paint *= coverage
    region += paint


def _backdrop(surface: Surface, size: Size) -> Array:
    height, width = size
    columns, rows = _across(width), _across(height)
    across = np.multiply.outer(_f32(surface.slope[0]) * 2, columns) + (_f32(surface.base) * 2 - 1)[:, None]
    down = np.multiply.outer(_f32(surface.slope[1]) * 2, rows)
    image: Array = down[:, :, None] + across[:, None, :]
    if surface.pattern is not None:
        unit = min(size)
        x, y = _in_sides(width, unit), _in_sides(height, unit)
        for band in _bands(height, width):
            pattern = _values(surface.pattern, x[None, :], y[band, None])
            pattern *= np.float32(2 * surface.change[0])  # grey: one product for the three channels
            image[:, band] += pattern
    return image


def _values(pattern: Pattern, x: Array, y: Array) -> Array:
    """Return a pattern in [-1, 1] at points that broadcast to (h, w)."""
    omega = np.float32(2 * math.pi * pattern.frequency)
    across = np.sin(x * omega + np.float32(pattern.phase[0]))
    if pattern.kind == "stripes":
        return across
    down = np.sin(y * omega + np.float32(pattern.phase[1]))
    if pattern.kind == "checks":
        return across * down
    return np.maximum(across + down, 0) - np.float32(1)


def _bands(height: int, width: int) -> Iterator[slice]:
    step = max(1, _BAND_PIXELS // width)
    return (slice(start, min(start + step, height)) for start in range(0, height, step))


def _span(centre: float, radius: float, unit: int, length: int) -> tuple[int, int]:
    """Return the pixels that a shape may touch along one axis, with one more on either side."""
    return max(0, math.floor((centre - radius) * unit) - 1), min(length, math.ceil((centre + radius) * unit) + 1)


def _centres(start: int, stop: int, unit: int) -> NDArray[np.float64]:
    return (np.arange(start, stop) + 0.5) / unit


@lru_cache(maxsize=16)
def _across(length: int) -> Array:
    """Centres of the pixels along one axis, in [-1, 1]; not to be changed."""
    return _f32((2 * np.arange(length) + 1) / length - 1)


@lru_cache(maxsize=16)
def _in_sides(length: int, unit: int) -> Array:
    """Centres of the pixels along one axis, in units of the shorter side; not to be changed."""
    return _f32(_centres(0, length, unit))


def _f32(values: object) -> Array:
    return np.asarray(values, dtype=np.float32)
