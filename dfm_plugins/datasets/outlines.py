"""Signed distances to the outlines of eight shapes, each within the unit circle, y upwards; negative inside.

Distances are exact where it matters for an antialiased edge: near the outline, corners aside.
After I. Quilez, https://iquilezles.org/articles/distfunctions2d/.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"""(H, W)."""


def circle(x: Field, y: Field) -> Field:
    """Disc of radius 0.85."""
    return np.hypot(x, y) - np.float32(0.85)


def square(x: Field, y: Field) -> Field:
    """Square of side 1.41."""
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.705)


def triangle(x: Field, y: Field) -> Field:
    """Equilateral triangle with its corners on the unit circle, one up."""
    slanted = np.abs(x) * np.float32(0.8660254) + y * np.float32(0.5)
    return np.maximum(slanted, -y) - np.float32(0.5)


# Unit normals of the mirrors that fold a pentagram onto half of one tip.
_STAR_X, _STAR_Y = np.float32(0.80901699), np.float32(0.58778525)


def star(x: Field, y: Field) -> Field:
    """Five-pointed star with its tips on the unit circle, notches at radius 0.44."""
    x = np.abs(x)
    depth = np.maximum(x * _STAR_X - y * _STAR_Y, 0) * np.float32(2)
    x, y = x - depth * _STAR_X, y + depth * _STAR_Y
    depth = np.maximum(-x * _STAR_X - y * _STAR_Y, 0) * np.float32(2)
    x, y = np.abs(x + depth * _STAR_X), y + depth * _STAR_Y
    # The edge runs from the tip (0, 1) to the notch (0.44 sin 36°, 0.44 cos 36°).
    return x * np.float32(0.92795) + (y - np.float32(1)) * np.float32(0.37271)


def ring(x: Field, y: Field) -> Field:
    """Ring between the radii 0.5 and 0.92."""
    return np.abs(np.hypot(x, y) - np.float32(0.71)) - np.float32(0.21)


def cross(x: Field, y: Field) -> Field:
    """Two bars of 1.84 × 0.56."""
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - np.float32(0.28), np.maximum(x, y) - np.float32(0.92))


def crescent(x: Field, y: Field) -> Field:
    """Disc with a disc bitten off on the right."""
    x = x - np.float32(0.15)
    bite = np.float32(0.75) - np.hypot(x - np.float32(0.52), y)
    return np.maximum(np.hypot(x, y) - np.float32(0.9), bite)


def heart(x: Field, y: Field) -> Field:
    """Square on its corner with a disc on each upper side."""
    x, y = np.abs(x), y + np.float32(0.88)
    half = np.float32(0.76)
    body = (x + np.abs(y - half) - half) * np.float32(0.70710678)
    lobe = np.hypot(x - half / 2, y - half * np.float32(1.5)) - half * np.float32(0.70710678)
    return np.minimum(body, lobe)


OUTLINES: dict[str, Callable[[Field, Field], Field]] = {
    outline.__name__: outline for outline in (circle, square, triangle, star, ring, cross, crescent, heart)
}
"""Class name -> distance; the order is the order of the labels."""
