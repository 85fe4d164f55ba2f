"""Galleries of clips: contact sheets, GIFs and MP4 files, each stage's previews, an animation that plays on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from given_steps import GivenStep
from PIL import Image, ImageSequence

from dfm_core.clips import read_clip
from dfm_core.generation import GenerationStep
from dfm_core.pictures import clip_gallery
from dfm_core.pictures.clip_gallery import enlarged, enlargement, shown_of
from dfm_core.pictures.gallery import Gallery


def grey(clip: int, step: int, frame: int) -> float:
    """Value of a frame in [-1, 1]: every one has its own."""
    return -0.9 + 0.5 * clip + 0.1 * step + 0.02 * frame


def generation(batch: int, first: int = 0, frames: tuple[int, int] = (4, 4)) -> Iterator[GenerationStep]:
    """Two steps at half the size, two at the full one, in as many frames as given."""
    for step in range(1, 5):
        stage = 0 if step <= 2 else 1
        shape = (batch, frames[stage], 3, 8 * (stage + 1), 8 * (stage + 1))
        values = [[grey(first + clip, step, frame) for frame in range(frames[stage])] for clip in range(batch)]
        clips = torch.tensor(values)[..., None, None, None].expand(shape).transpose(1, 2)
        yield cast(GenerationStep, GivenStep(step, 4, stage + 1, step in (2, 4), clips))


def level(value: float) -> int:
    return round((value + 1) * 127.5)


def frames_of(path: Path) -> tuple[list[Any], list[int]]:
    """Frames of a GIF, (H, W, 3), and their durations."""
    with Image.open(path) as file:
        shown = [
            (np.asarray(frame.convert("RGB")).astype(int), frame.info["duration"])
            for frame in ImageSequence.Iterator(file)
        ]
    return [frame for frame, _ in shown], [duration for _, duration in shown]


def written(folder: Path, **settings: Any) -> list[Path]:
    gallery = Gallery(columns=2, **settings)
    gallery.collect(generation(2))
    gallery.collect(generation(1, first=2))
    return gallery.write(folder)


def test_a_sheet_a_gif_and_a_film_a_clip(tmp_path: Path) -> None:
    pytest.importorskip("av")
    names = [path.name for path in written(tmp_path)]
    stems = ["grid", "0000", "0001", "0002"]
    assert names == [f"{stem}.{ending}" for stem in stems for ending in ("png", "gif", "mp4")]
    with Image.open(tmp_path / "grid.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    assert pixels.shape == (2 + 3 * 66, 2 + 4 * 66, 3)  # a row a clip, its frames from left to right
    for clip in range(3):
        for frame in range(4):
            place = pixels[10 + 66 * clip, 10 + 66 * frame, 0]
            assert place == level(min(1.0, grey(clip, 4, frame)))


def test_clips_play_at_their_frame_rate(tmp_path: Path) -> None:
    pytest.importorskip("av")
    written(tmp_path, frame_rate=5.0)
    frames, durations = frames_of(tmp_path / "0001.gif")
    assert durations == [200] * 4
    for index, frame in enumerate(frames):
        assert abs(frame[8, 8, 0] - level(grey(1, 4, index))) <= 2
    film = read_clip(tmp_path / "0001.mp4")
    assert film.shape == (3, 4, 16, 16)
    assert film[:, :, 8, 8].mean(0).tolist() == pytest.approx([grey(1, 4, index) for index in range(4)], abs=0.03)


def test_the_grid_shows_all_at_once(tmp_path: Path) -> None:
    written(tmp_path)
    frames, durations = frames_of(tmp_path / "grid.gif")
    assert {frame.shape for frame in frames} == {(2 + 2 * 66, 2 + 2 * 66, 3)}
    assert sum(durations) == 500
    assert abs(frames[2][10, 10 + 66, 0] - level(grey(1, 4, 2))) <= 2


def test_previews_with_fewer_frames_play_as_long(tmp_path: Path) -> None:
    gallery = Gallery(columns=2, previews=True, frame_rate=10.0)
    gallery.collect(generation(2, frames=(2, 4)))
    gallery.write(tmp_path)
    first, slow = frames_of(tmp_path / "0001_stage_1.gif")
    second, quick = frames_of(tmp_path / "0001_stage_2.gif")
    assert (slow, quick) == ([200] * 2, [100] * 4)
    assert (first[0].shape, second[0].shape) == ((160, 160, 3), (160, 160, 3))
    assert abs(first[1][4, 4, 0] - level(grey(1, 2, 1))) <= 2
    assert (tmp_path / "grid_stage_1.png").is_file()


def test_the_animation_plays_on_while_clips_are_made(tmp_path: Path) -> None:
    paths = written(tmp_path, animate=True)
    assert paths[-1].name == "animation.gif"
    frames, durations = frames_of(paths[-1])
    assert durations == [80] * 4 + [120] * 4
    assert {frame.shape for frame in frames} == {(2 + 2 * 66, 2 + 2 * 66, 3)}
    shown = [abs(frame[10, 10, 0]) for frame in frames]
    expected = [grey(0, step, (step - 1) % 4) for step in range(1, 5)] + [grey(0, 4, frame) for frame in range(4)]
    assert all(abs(value - level(want)) <= 2 for value, want in zip(shown, expected, strict=True))


def test_without_pyav_there_are_gifs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_gallery, "find_spec", lambda name: None)
    assert {path.suffix for path in written(tmp_path)} == {".png", ".gif"}


def test_long_clips_have_short_sheets(tmp_path: Path) -> None:
    gallery = Gallery(columns=1)
    gallery.collect(generation(1, frames=(4, 20)))
    gallery.write(tmp_path)
    with Image.open(tmp_path / "0000.png") as sheet:
        assert sheet.size == (2 + 8 * 66, 2 + 66 + 18)
        pixels = np.asarray(sheet).astype(int)
    assert pixels[10, 10, 0] == level(grey(0, 4, 0))
    assert pixels[10, 10 + 7 * 66, 0] == level(grey(0, 4, 19))
    label = pixels[2 + 66 :, :, 0] < 128
    assert label[:, :100].any(), "it says that 8 of 20 frames are shown"
    assert not label[:, 100:].any()


def test_tiny_clips_are_enlarged_by_whole_numbers() -> None:
    clip = torch.arange(12.0).reshape(1, 1, 3, 4)
    large = enlarged(clip, 8)
    assert large.shape == (1, 1, 9, 12)
    assert torch.equal(large[..., 1::3, 1::3], clip)
    assert [enlargement(height, 160) for height in (8, 48, 159, 160, 500)] == [20, 4, 2, 1, 1]
    assert (shown_of(17, 8), shown_of(8, 8)) == ("8 of 17 frames", "")
