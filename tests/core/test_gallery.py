"""Galleries: columns of grids, files, frames; fed with made-up generations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from given_steps import GivenStep
from PIL import Image, ImageSequence

from dfm_core.generation import GenerationStep
from dfm_core.pictures.gallery import ANIMATION_WIDTH, Gallery, grid_columns


def generation(batch: int, first: int = 0, size: int = 8) -> Iterator[GenerationStep]:
    """Two steps at half the size, two at the full one; image i has the value i/10 + step/100."""
    for step in range(1, 5):
        side = size // 2 if step <= 2 else size
        values = torch.arange(first, first + batch) / 10 + step / 100
        image = values[:, None, None, None].expand(batch, 3, side, side)
        yield cast(GenerationStep, GivenStep(step, 4, 1 if step <= 2 else 2, step in (2, 4), image))


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


def level(value: float) -> int:
    return round((value + 1) * 127.5)


COLUMNS = [
    *[(0, 0, 0), (1, 0, 1), (2, 0, 2), (5, 0, 3), (16, 0, 4), (17, 0, 5), (3, 3, 3), (8, 8, 8), (9, 2, 4), (4, 1, 2)],
    *[(16, 2, 4), (16, 8, 8), (32, 8, 8), (64, 10, 10), (100, 3, 12), (16, 1000, 4), (16, 16, 4)],
]


@pytest.mark.parametrize(("images", "labels", "columns"), COLUMNS)
def test_columns(images: int, labels: int, columns: int) -> None:
    assert grid_columns(images, labels) == columns


def test_images_of_several_batches_in_their_order(tmp_path: Path) -> None:
    gallery = Gallery(columns=2)
    gallery.collect(generation(2))
    gallery.collect(generation(1, first=2))
    paths = gallery.write(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["grid.png", "0000.png", "0001.png", "0002.png"]
    for index, path in enumerate(paths[1:]):
        assert (pixels(path) == level(index / 10 + 0.04)).all()
    assert pixels(paths[0]).shape == (2 + 2 * 10, 2 + 2 * 10, 3)


def test_previews_are_those_at_the_end_of_each_phase(tmp_path: Path) -> None:
    gallery = Gallery(columns=2, previews=True)
    gallery.collect(generation(2))
    gallery.write(tmp_path)
    first, second = pixels(tmp_path / "0001_stage_1.png"), pixels(tmp_path / "0001_stage_2.png")
    assert (first.shape, second.shape) == ((4, 4, 3), (8, 8, 3))
    assert (first == level(0.12)).all()
    assert (second == level(0.14)).all()
    assert pixels(tmp_path / "grid_stage_1.png").shape == (2 + 6, 2 + 2 * 6, 3)


def test_frames_of_every_step_in_one_size(tmp_path: Path) -> None:
    gallery = Gallery(columns=2, animate=True)
    gallery.collect(generation(1))
    gallery.collect(generation(1, first=1))
    paths = gallery.write(tmp_path)
    assert paths[-1].name == "animation.gif"
    with Image.open(paths[-1]) as animation:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(animation)]
    assert [frame.shape for frame in frames] == [(12, 22, 3)] * 4
    for step, frame in enumerate(frames, start=1):
        assert abs(int(frame[5, 5, 0]) - level(step / 100)) <= 1
        assert abs(int(frame[5, 15, 0]) - level(0.1 + step / 100)) <= 1


def test_animations_stay_small(tmp_path: Path) -> None:
    gallery = Gallery(columns=2, animate=True)
    gallery.collect(generation(2, size=512))
    paths = gallery.write(tmp_path)
    with Image.open(paths[-1]) as animation:
        assert ANIMATION_WIDTH * 0.9 < animation.size[0] < ANIMATION_WIDTH * 1.1
    assert pixels(paths[0]).shape[1] > 1024  # the grid does not shrink


def test_values_beyond_the_range_are_clamped(tmp_path: Path) -> None:
    gallery = Gallery(columns=1)
    step = GivenStep(1, 1, 1, True, torch.full((1, 3, 2, 2), 7.0))
    gallery.collect([cast(GenerationStep, step)])
    (_, path) = gallery.write(tmp_path)
    assert (pixels(path) == 255).all()
