"""Times of a GIF's frames without decoding them, and how often reading a part of it decodes."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dfm_core.clips import read_clip
from dfm_core.errors import UnreadableSampleError
from dfm_core.gif_times import gif_durations


def write(path: Path, frames: int, duration: int | list[int], **options: object) -> Path:
    pictures = [Image.fromarray(np.full((6, 8), 30 + index % 200, dtype=np.uint8)) for index in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, **options)
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each frame that Pillow decodes."""
    made, original = [], Image._getdecoder  # type: ignore[attr-defined]

    def counted(mode: str, decoder: str, *given: object) -> object:
        made.append(decoder)
        return original(mode, decoder, *given)

    monkeypatch.setattr(Image, "_getdecoder", counted)
    return made


@pytest.mark.parametrize("options", [{}, {"loop": 0, "comment": b"a, b; c!"}, {"disposal": 2}])
def test_durations_are_those_that_pillow_finds(tmp_path: Path, options: dict[str, object]) -> None:
    path = write(tmp_path / "a.gif", 5, [50, 200, 10, 0, 70], **options)
    shown = gif_durations(path.read_bytes())
    assert shown == [Fraction(5, 100), Fraction(1, 5), Fraction(1, 100), Fraction(1, 10), Fraction(7, 100)]
    with Image.open(path) as file:
        assert file.n_frames == 5  # type: ignore[attr-defined]
        for index, seconds in enumerate(shown):
            file.seek(index)
            assert (file.info["duration"] or 100) == 1000 * seconds


def test_a_part_is_decoded_once_and_nothing_behind_it(tmp_path: Path, decoded: list[str]) -> None:
    path = write(tmp_path / "a.gif", 400, 40)
    whole = read_clip(path)
    assert len(decoded) == 400
    for start, first in ((0.0, 0), (0.5, 198), (1.0, 396)):
        decoded.clear()
        part = read_clip(path, 4, start=start)
        assert torch.equal(part, whole[:, first : first + 4])
        assert len(decoded) == first + 4


def test_the_end_mark_may_be_missing_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gif", 3, 100)
    content = path.read_bytes()
    assert len(gif_durations(content)) == len(gif_durations(content[:-1])) == len(gif_durations(content + b"more")) == 3
    for length in range(14, len(content) - 1):
        with suppress(ValueError):  # and nothing else
            assert len(gif_durations(content[:length])) < 3
    path.write_bytes(content[:-9])
    with pytest.raises(UnreadableSampleError, match=r"a\.gif: it is cut off after 2 frames"):
        read_clip(path, 2)
    path.write_bytes(content[:-1] + b"abc")
    with pytest.raises(UnreadableSampleError, match="it is damaged after 3 frames"):
        read_clip(path, 2)
