"""Procedural clips of one coloured shape in motion, drawn at any size and with any number of frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from dfm_core.errors import UsageError
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from dfm_plugins.datasets.outlines import OUTLINES
from dfm_plugins.datasets.scene import Draws, Scene, compose
from dfm_plugins.datasets.shapes import render
from dfm_plugins.datasets.specs import MovingShapesOptions

# Small enough that a shape has room to move.
_RADIUS = (0.2, 0.28)
_GROWN_RADIUS = (0.34, 0.45)
_SMALLEST = 0.4
_TURN = math.radians(110)

MOTIONS: dict[str, Callable[[Scene, float], Scene]] = {
    "right": lambda scene, way: replace(scene, place=(way, scene.place[1])),
    "left": lambda scene, way: replace(scene, place=(1 - way, scene.place[1])),
    "down": lambda scene, way: replace(scene, place=(scene.place[0], way)),
    "up": lambda scene, way: replace(scene, place=(scene.place[0], 1 - way)),
    "growing": lambda scene, way: replace(scene, growth=_SMALLEST + (1 - _SMALLEST) * way),
    "shrinking": lambda scene, way: replace(scene, growth=1 - (1 - _SMALLEST) * way),
    "turning": lambda scene, way: replace(scene, angle=scene.angle + _TURN * way),
}
"""Name -> scene at a part of its way, in [0, 1]. Turning is counter-clockwise."""

# A disc and a ring look the same at every angle.
_ROUND = ("circle", "ring")


class MovingShapes(Dataset):
    """Clips by index, the same for every run, epoch and seed; the classes take turns, so any range is balanced."""

    options: MovingShapesOptions

    def __init__(self, options: MovingShapesOptions, facts: DatasetFacts) -> None:
        super().__init__(options, facts)
        if len(facts.size) != 3 or min(facts.size) < 1:
            raise UsageError(
                f"data set moving_shapes: expected a size frames × height × width, got {facts.size}; "
                "write stages as 8x16x16,8x32x32, or give --frames 8"
            )
        self._pairs = [
            (shape, motion)
            for motion in options.motions or MOTIONS
            for shape in options.shapes or OUTLINES
            if not (motion == "turning" and shape in _ROUND)
        ]
        if not self._pairs:
            raise UsageError("data set moving_shapes: a circle or ring that turns looks still; choose another motion")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the pairs of a shape and a motion that can be seen: "circle right", …; all are 54."""
        return tuple(f"{shape} {motion}" for shape, motion in self._pairs)

    def __len__(self) -> int:
        return self.options.train_clips if self.facts.split == "train" else self.options.validation_clips

    def load(self, index: int, epoch: int) -> Sample:
        """Draw clip `index`, (3, T, H, W) in [-1, 1]; every epoch sees the same one."""
        if not 0 <= index < len(self):
            raise IndexError(f"data set moving_shapes: expected an index below {len(self)}, got {index}")
        label = index % len(self._pairs)
        (shape, motion), key = self._pairs[label], f"moving_shapes/{self.facts.split}/{index}"
        radius = _GROWN_RADIUS if motion in ("growing", "shrinking") else _RADIUS
        scene = compose(key, self.options.texture, self.options.rotation, radius)
        number, *size = self.facts.size
        scenes = [MOTIONS[motion](scene, way) for way in _ways(key, number)]
        frames = np.stack([render(shape, moved, tuple(size)) for moved in scenes], axis=1)
        return {"video": torch.from_numpy(frames), "label": label}


def _ways(key: str, frames: int) -> list[float]:
    """Return how far the motion is at the middle of each of `frames` equal spans of time; its speed is constant."""
    draws = Draws(f"{key}/motion")
    length = draws.uniform(0.75, 1.0)
    first = draws.uniform(0, 1 - length)
    return [first + length * (index + 0.5) / frames for index in range(frames)]
