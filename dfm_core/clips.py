"""Clips between files and tensors (3, T, H, W) in [-1, 1]: MP4, WebM, GIF, folders of frames, contact sheets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfm_core.clip_sources import (
    VIDEO_ENDINGS,
    ClipSource,
    TimedFrame,
    TooShortError,
    frame_files,
    import_av,
    open_source,
)
from dfm_core.errors import DataError, UsageError
from dfm_core.files import complete_or_absent
from dfm_core.images import Pixels, fit_image, make_grid, save_gif, to_pixels, to_tensor
from dfm_core.stages import Size

_BT709 = 1  # in ISO/IEC 23091-2, matrix coefficients
DEFAULT_FRAME_RATE = 8.0
LOWEST_FRAME_RATE, HIGHEST_FRAME_RATE = 1e-3, 1e6
MOST_FRAMES = 1024
"""Frames of a clip that is read whole: more is taken for a mistake."""


def clip_endings() -> frozenset[str]:
    """Endings of the files that `read_clip` reads, lower case with their dot."""
    return VIDEO_ENDINGS | {".gif"}


def is_clip(path: str | Path) -> bool:
    """Whether a path is one that `read_clip` reads: a file with such an ending, or a folder that holds images."""
    if os.path.isdir(path):
        return bool(frame_files(Path(path)))
    return os.path.splitext(path)[1].lower() in clip_endings()


def read_clip(
    path: str | Path,
    frames: int | None = None,
    size: Size | None = None,
    *,
    start: float = 0.0,
    frame_rate: float | None = None,
    position: tuple[float, float] = (0.5, 0.5),
) -> Tensor:
    """Read a clip as (3, T, H, W) float32 in [-1, 1]: upright, RGB, transparency over white.

    frames: T; None for all there are. size: height × width to cover and crop to at `position` (see `fit_image`), None
    for the file's own. start: where the clip lies in the file, in [0, 1] of the room that it leaves; only what is
    needed from there on is decoded (of a GIF also what comes before). frame_rate: frames a second to pick, at least
    0.001, those nearest in time; None takes every frame, and so does a folder, whose frames have no times. Raises
    UnreadableSampleError naming the file (ShortSampleError where it is too short), PluginError for a video file without
    PyAV, UsageError for other values than these.
    """
    check_request(frames, size, start, frame_rate)
    with open_source(path) as source:
        rate = Fraction(frame_rate).limit_denominator(1000) if frame_rate and source.timed else None

        def read(first: Fraction, count: int) -> list[Tensor]:
            picked = islice(_pick(source.frames_from(first), rate), count)
            images = (frame.picture() for frame in picked)
            return [to_tensor(fit_image(image, size, position) if size else image) for image in images]

        found = _all(read) if frames is None else _some(read, source, frames, rate, start)
        if len({image.shape for image in found}) > 1:
            raise ValueError("its frames differ in size; say to which size they are to be scaled")
        return torch.stack(found, dim=1)


def count_frames(path: str | Path) -> int:
    """Frames of a clip, as its file states them. Raises as `read_clip` does."""
    with open_source(path) as source:
        return max(1, round(source.duration * source.frame_rate))


def check_request(frames: int | None, size: Size | None, start: float, frame_rate: float | None) -> None:
    """Raise UsageError for arguments of `read_clip` that no file can meet."""
    if frames is not None and frames < 1:
        raise UsageError(f"frames: expected at least 1, or None for all, got {frames}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise UsageError(f"size: expected height × width of at least 1, or None for the file's own, got {size}")
    if not 0 <= start <= 1:
        raise UsageError(f"start: expected a share from 0 to 1, got {start:g}")
    if frame_rate is not None and not LOWEST_FRAME_RATE <= frame_rate <= HIGHEST_FRAME_RATE:
        raise UsageError(
            f"frame_rate: expected {LOWEST_FRAME_RATE:g} to {HIGHEST_FRAME_RATE:g} frames a second, or None for every "
            f"frame, got {frame_rate:g}"
        )


def write_mp4(path: str | Path, clip: Tensor, frame_rate: float = DEFAULT_FRAME_RATE) -> None:
    """Write a clip (1 or 3, T, H, W) in [-1, 1] as MP4: H.264 that every player shows, else MPEG-4.

    Odd sizes get a row or column more, a copy of the last. The file appears complete or not at all. Raises PluginError
    without PyAV.
    """
    av = import_av()
    frames = np.stack(_frames(clip))
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    codec, options = ("libx264", {"crf": "16"}) if "libx264" in av.codecs_available else ("mpeg4", {"qscale": "2"})
    with complete_or_absent(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(frame_rate).limit_denominator(1000), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = _BT709
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode(None))


def write_gif(path: str | Path, clip: Tensor, frame_rate: float = DEFAULT_FRAME_RATE) -> None:
    """Write a clip (1 or 3, T, H, W) in [-1, 1] as an endless GIF; the file appears complete or not at all."""
    frames = _frames(clip)
    # A GIF counts in hundredths of a second; the errors of rounding do not add up.
    ends = [10 * round(100 * index / frame_rate) for index in range(len(frames) + 1)]
    save_gif(path, frames, [max(10, end - begin) for begin, end in pairwise(ends)])


def contact_sheet(clips: Tensor | Sequence[Tensor], columns: int | None = None, padding: int = 2) -> Pixels:
    """Show clips (1 or 3, T, H, W) in [-1, 1] as one picture: a row a clip, its frames from left to right.

    columns: at most so many frames of each, evenly spaced, the first and the last among them; None for all.
    Returns (rows, columns, 3) of uint8.
    """
    if len({clip.shape for clip in clips}) != 1:
        raise DataError(f"expected clips of one shape, at least one, got {[tuple(clip.shape) for clip in clips]}")
    length = clips[0].shape[1]
    shown = torch.linspace(0, length - 1, min(columns or length, length)).round().long()
    return make_grid([clip[:, index] for clip in clips for index in shown], len(shown), padding)


def _frames(clip: Tensor) -> list[Pixels]:
    if clip.ndim != 4 or clip.shape[0] not in (1, 3) or clip.shape[1] == 0:
        raise DataError(f"expected a clip (1 or 3, T, H, W) of at least one frame, got {tuple(clip.shape)}")
    return [to_pixels(frame) for frame in clip.unbind(1)]


def _all(read: Callable[[Fraction, int], list[Tensor]]) -> list[Tensor]:
    found = read(Fraction(0), MOST_FRAMES + 1)
    if not 0 < len(found) <= MOST_FRAMES:
        raise ValueError(f"expected 1 to {MOST_FRAMES} frames, got {'more' if found else 'none'}; say how many to read")
    return found


def _some(
    read: Callable[[Fraction, int], list[Tensor]], source: ClipSource, count: int, rate: Fraction | None, share: float
) -> list[Tensor]:
    """Read `count` frames at a share of the room, earlier where the file ends before the time that it states."""
    span = (count - 1) / (rate or source.frame_rate)
    place = Fraction(min(share, 1 - 2**-20))
    stated, step = source.duration, 1 / source.frame_rate
    start = max(Fraction(0), stated - span) * place
    while len(found := read(start, count)) < count:
        if start == 0:
            at = f" at {float(rate):g} frames a second" if rate else ""
            has = f"{len(found)} frame{'s' * (len(found) != 1)}"
            raise TooShortError(f"it has {has}{at}, expected at least {count}")
        if source.duration < stated:
            stated = source.duration
            start = max(Fraction(0), stated - span) * place
        else:
            start, step = max(Fraction(0), start - step), 2 * step
    return found


def _pick(frames: Iterable[TimedFrame], rate: Fraction | None) -> Iterator[TimedFrame]:
    """Yield all frames, or those nearest to first, first + 1/rate, …; the last half a step beyond its time at most."""
    if rate is None:
        yield from frames
        return
    previous: TimedFrame | None = None
    wanted = Fraction(0)
    for frame in frames:
        if previous is None:
            wanted, previous = frame.time, frame
        while wanted <= frame.time:
            yield previous if wanted - previous.time <= frame.time - wanted else frame
            wanted += 1 / rate
        previous = frame
    if previous is not None and wanted - previous.time < 1 / (2 * rate):
        yield previous
