"""Generated images or clips into a folder: a grid, one file each, the preview of each stage, an animation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dfm_core.clips import DEFAULT_FRAME_RATE
from dfm_core.generation import GenerationStep
from dfm_core.images import make_grid, save_gif, save_png, to_pixels
from dfm_core.pictures.clip_gallery import SMALLEST_CELL, enlargement, write_clips

ANIMATION_WIDTH = 768
"""Largest width of an animation's frames in pixels, so that a GIF of many large images stays a GIF."""
STEP_MS, LAST_FRAME_MS = 80, 1500
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
    as an animation, in which a clip plays on while it is generated. frame_rate: of clips, in frames a second; a preview
    with fewer frames plays as long as its clip.
    """

    def __init__(
        self, columns: int, previews: bool = False, animate: bool = False, frame_rate: float = DEFAULT_FRAME_RATE
    ) -> None:
        self.columns = columns
        self.frame_rate = frame_rate
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
                self._frames.setdefault(step.step, []).append(_moment(preview, step.step))

    def write(self, folder: Path) -> list[Path]:
        """Write everything and return the paths, the grid first."""
        folder.mkdir(parents=True, exist_ok=True)
        images = torch.cat(self.images)
        paths = self._write_all(folder, images, "", self.frame_rate)
        for stage, batches in self._previews.items():
            preview = torch.cat(batches)
            frame_rate = self.frame_rate * preview.shape[2] / images.shape[2] if preview.ndim == 5 else 0.0
            paths += self._write_all(folder, preview, f"_stage_{stage}", frame_rate)
        if self._frames:
            paths.append(folder / "animation.gif")
            self._write_animation(paths[-1], images)
        return paths

    def _write_all(self, folder: Path, images: Tensor, suffix: str, frame_rate: float) -> list[Path]:
        """Write a grid and each image, or each clip."""
        if images.ndim == 5:
            return write_clips(folder, images, self.columns, suffix, frame_rate)
        paths = [folder / f"grid{suffix}.png", *(folder / f"{index:04d}{suffix}.png" for index in range(len(images)))]
        for path, pixels in zip(paths, [make_grid(images, self.columns), *map(to_pixels, images)], strict=True):
            save_png(path, pixels)
        return paths

    def _write_animation(self, path: Path, images: Tensor) -> None:
        steps = [torch.cat(batches) for batches in self._frames.values()]
        durations = [STEP_MS] * (len(steps) - 1) + [LAST_FRAME_MS]
        if images.ndim == 5:
            # At the end once at its own speed. A GIF counts in hundredths of a second.
            durations = [STEP_MS] * len(steps) + [10 * round(100 / self.frame_rate)] * images.shape[2]
            steps += images.unbind(2)
        size = images.shape[-2:]
        scale = min(1.0, ANIMATION_WIDTH / (self.columns * size[1]))
        if images.ndim == 5 and scale == 1:
            scale = enlargement(size[0], SMALLEST_CELL)
        cell = [max(1, round(length * scale)) for length in size]
        # Nearest neighbour, so that a coarse preview looks as coarse as it is.
        frames = [make_grid(F.interpolate(step, cell, mode="nearest"), self.columns) for step in steps]
        save_gif(path, frames, durations)


def _moment(preview: Tensor, step: int) -> Tensor:
    """What an animation shows of a step: the images, or the next frame of the clips, again from the first."""
    return preview if preview.ndim == 4 else preview[:, :, (step - 1) % preview.shape[2]].clone()
