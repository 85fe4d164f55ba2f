"""Generated images into a folder: a grid, one file an image, the preview of each stage, an animation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dfm_core.generation import GenerationStep
from dfm_core.images import make_grid, save_gif, save_png, to_pixels

ANIMATION_WIDTH = 768
"""Largest width of an animation's frames in pixels, so that a GIF of many large images stays a GIF."""
LAST_FRAME_MS = 1500
UNASKED_COLUMNS = 10
"""Columns that a grid may have however few images there are."""


def grid_columns(num_images: int, num_labels: int = 0) -> int:
    """Columns of a grid: about square, or, where labels take turns and it does not get too wide, a class a column.

    num_labels: how many take turns, 0 for none.
    """
    square = math.isqrt(max(0, num_images - 1)) + 1
    aligned = -(-square // num_labels) * num_labels if num_labels else square
    return min(num_images, aligned if aligned <= max(2 * square, UNASKED_COLUMNS) else square)


class Gallery:
    """Collects the batches of one generation, then writes them.

    columns: of the grids. previews: also write the images at the end of every phase. animate: also write every step
    as an animation.
    """

    def __init__(self, columns: int, previews: bool = False, animate: bool = False) -> None:
        self.columns = columns
        self.keep_previews = previews
        self.keep_frames = animate
        self.images: list[Tensor] = []
        self._previews: dict[int, list[Tensor]] = {}
        self._frames: dict[int, list[Tensor]] = {}

    def collect(self, steps: Iterable[GenerationStep]) -> None:
        """Run one batch to its end and keep what will be written."""
        for step in steps:
            last = step.step == step.num_steps
            if not (last or self.keep_frames or (self.keep_previews and step.stage_finished)):
                continue
            preview = step.preview().clamp(-1, 1).cpu()
            if last:
                self.images.append(preview)
            if self.keep_previews and step.stage_finished:
                self._previews.setdefault(step.num_visible, []).append(preview)
            if self.keep_frames:
                self._frames.setdefault(step.step, []).append(preview)

    def write(self, folder: Path) -> list[Path]:
        """Write everything and return the paths, the grid first."""
        folder.mkdir(parents=True, exist_ok=True)
        images = torch.cat(self.images)
        paths = [folder / "grid.png"]
        save_png(paths[0], make_grid(images, self.columns))
        paths += self._write_each(folder, images, "")
        for stage, batches in self._previews.items():
            preview = torch.cat(batches)
            paths.append(folder / f"grid_stage_{stage}.png")
            save_png(paths[-1], make_grid(preview, self.columns))
            paths += self._write_each(folder, preview, f"_stage_{stage}")
        if self._frames:
            paths.append(folder / "animation.gif")
            self._write_animation(paths[-1], images.shape[-2:])
        return paths

    def _write_each(self, folder: Path, images: Tensor, suffix: str) -> list[Path]:
        paths = [folder / f"{index:04d}{suffix}.png" for index in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            save_png(path, to_pixels(image))
        return paths

    def _write_animation(self, path: Path, size: Sequence[int]) -> None:
        shrink = min(1.0, ANIMATION_WIDTH / (self.columns * size[1]))
        cell = [max(1, round(length * shrink)) for length in size]
        # Nearest neighbour, so that a coarse preview looks as coarse as it is.
        frames = [
            make_grid(F.interpolate(torch.cat(batches), cell, mode="nearest"), self.columns)
            for batches in self._frames.values()
        ]
        save_gif(path, frames, [80] * (len(frames) - 1) + [LAST_FRAME_MS])
