"""What an image of `shapes` or a frame of `moving_shapes` shows, free of resolution, drawn from a hash."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Colour = tuple[float, float, float]
Texture = Literal["plain", "weak", "hard"]
T = TypeVar("T")

_MOST_DRAWS = 40
_LUMA = (0.299, 0.587, 0.114)
# Luma of the two sides, apart by 0.32 at least, so that the shape stands out whatever the hues are.
_DARK, _BRIGHT = (0.1, 0.3), (0.62, 0.9)
_HUES: tuple[Colour, ...] = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1))


@dataclass(frozen=True)
class Pattern:
    """A texture with values in [-1, 1]. frequency: waves a unit of length. phase: where they start, radians."""

    kind: str
    frequency: float
    phase: tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """Colour `base` + `change` · pattern + (slope of the two axes) · (across, down in [-1, 1]), channels in [0, 1]."""

    base: Colour
    slope: tuple[Colour, Colour]
    change: Colour
    pattern: Pattern | None


@dataclass(frozen=True)
class Scene:
    """One shape on a backdrop.

    place: of the centre, (across, down), in [0, 1] of the room that the shape leaves. radius: of the circle around the
    shape, in units of the shorter side. angle: radians. The fill's pattern counts in radii, the backdrop's in sides.
    growth: how much of the radius is drawn; the place is that of the full one.
    """

    place: tuple[float, float]
    radius: float
    angle: float
    fill: Surface
    backdrop: Surface
    growth: float = 1.0


class Draws:
    """Uniform numbers from a hash: no state, and the same with every version of numpy."""

    def __init__(self, key: str) -> None:
        digest = hashlib.shake_128(key.encode()).digest(4 * _MOST_DRAWS)
        self._numbers = iter(struct.unpack(f"<{_MOST_DRAWS}I", digest))

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * (next(self._numbers) / 2**32)

    def choose(self, among: Sequence[T]) -> T:
        """Return one of several, each as likely."""
        return among[next(self._numbers) * len(among) >> 32]


def compose(key: str, texture: Texture, rotation: float, radius: tuple[float, float] = (0.3, 0.42)) -> Scene:
    """Return the scene of `key`, an arbitrary string.

    rotation: largest angle, degrees either way. radius: smallest and largest.
    """
    draws = Draws(key)
    lumas = draws.choose(((_DARK, _BRIGHT), (_BRIGHT, _DARK)))
    return Scene(
        place=(draws.uniform(0, 1), draws.uniform(0, 1)),
        radius=draws.uniform(*radius),
        angle=math.radians(draws.uniform(-rotation, rotation)),
        fill=_fill(draws, lumas[0], texture),
        backdrop=_backdrop(draws, lumas[1], texture),
    )


def _fill(draws: Draws, lumas: tuple[float, float], texture: Texture) -> Surface:
    strength = {"plain": 0.0, "weak": draws.uniform(0.04, 0.09), "hard": 0.09}[texture]
    base = _colour(draws, lumas, strength)
    change = (strength, strength, strength)
    if texture == "hard":
        base, change = _between(base, _colour(draws, lumas, 0.0))
    most = 4.0 if texture == "hard" else 2.0
    return Surface(base, ((0, 0, 0), (0, 0, 0)), change, _pattern(draws, texture, (0.8, most)))


def _backdrop(draws: Draws, lumas: tuple[float, float], texture: Texture) -> Surface:
    strength = 0.09 if texture == "hard" else 0.0
    base, half = _between(_colour(draws, lumas, strength), _colour(draws, lumas, strength))
    direction = draws.uniform(0, 2 * math.pi)
    across, down = math.cos(direction), math.sin(direction)
    sloped = draws.choose((0, 1)) if texture != "plain" else 0
    steepness = sloped / (abs(across) + abs(down))  # in the corners at most from one colour to the other
    slope = (_scaled(half, across * steepness), _scaled(half, down * steepness))
    pattern = _pattern(draws, texture, (3.0, 9.0)) if texture == "hard" else None
    return Surface(base, slope, (strength, strength, strength), pattern)


def _pattern(draws: Draws, texture: Texture, frequencies: tuple[float, float]) -> Pattern | None:
    kind = draws.choose(("stripes", "checks", "dots", "plain") if texture == "weak" else ("stripes", "checks", "dots"))
    phase = (draws.uniform(0, 2 * math.pi), draws.uniform(0, 2 * math.pi))
    return None if "plain" in (kind, texture) else Pattern(kind, draws.uniform(*frequencies), phase)


def _colour(draws: Draws, lumas: tuple[float, float], room: float) -> Colour:
    """Return a colour of a luma within `lumas`, every channel at least `room` away from 0 and 1."""
    luma, position, saturation = draws.uniform(*lumas), draws.uniform(0, 6), draws.uniform(0.35, 1.0)
    first, part = int(position) % 6, position % 1
    hue = [a + (b - a) * part for a, b in zip(_HUES[first], _HUES[(first + 1) % 6], strict=True)]
    grey = sum(weight * channel for weight, channel in zip(_LUMA, hue, strict=True))
    offsets = [channel - grey for channel in hue]
    reach = min((1 - room - luma) / max(offsets), (luma - room) / -min(offsets))
    red, green, blue = (luma + saturation * reach * offset for offset in offsets)
    return red, green, blue


def _between(first: Colour, second: Colour) -> tuple[Colour, Colour]:
    """Return the middle of two colours and half of their difference."""
    (a, b, c), (d, e, f) = first, second
    return ((a + d) / 2, (b + e) / 2, (c + f) / 2), ((d - a) / 2, (e - b) / 2, (f - c) / 2)


def _scaled(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor
