"""Frames of a clip from any moment on: video files through PyAV, GIFs and folders of frames through Pillow."""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from dfm_core.errors import PluginError, ShortSampleError, UnreadableSampleError
from dfm_core.gif_times import gif_durations
from dfm_core.images import image_endings, open_image

VIDEO_ENDINGS = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv"})
# Files name themselves what they like: a playlist called clip.mp4 would make FFmpeg open other files and addresses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
_MOST_PIXELS = 2**27
_UNSPECIFIED = 2  # in ISO/IEC 23091-2, matrix coefficients
_PRE_ROLL = Fraction(1)
_TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


class TooShortError(ValueError):
    """A clip has fewer frames than are asked for."""


class TimedFrame(NamedTuple):
    """A frame and when it is shown. time: seconds from the first frame. picture: converts it to an RGB image."""

    time: Fraction
    picture: Callable[[], Image.Image]


class ClipSource(ABC):
    """An opened clip.

    timed: whether the times are the file's own (a folder has none: its frames are one second apart). duration: seconds
    from the first frame to the end of the last, as the file states it until the end has been seen. frame_rate: the
    average.
    """

    timed: bool
    duration: Fraction
    frame_rate: Fraction

    @abstractmethod
    def frames_from(self, start: Fraction) -> Iterator[TimedFrame]:
        """Yield the frame that is shown at `start` seconds, and those after it."""


@contextmanager
def open_source(path: str | Path) -> Iterator[ClipSource]:
    """Open a clip: a folder of frames, a GIF or a video file, by its ending.

    Raises UnreadableSampleError naming it, whatever is wrong with it, also while it is read: ShortSampleError for a
    TooShortError inside. PluginError without PyAV.
    """
    path = Path(path)
    try:
        if path.is_dir():
            yield _Folder(path)
        elif not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is no file")
        elif path.suffix.lower() == ".gif":
            with Image.open(path, formats=("GIF",)) as file:
                yield _Gif(file, gif_durations(path.read_bytes()))
        else:
            with path.open("rb") as stream:
                yield _Video(stream)
    except (UnreadableSampleError, PluginError):
        raise
    except TooShortError as error:
        raise ShortSampleError(f"cannot read clip {path}: {error}") from error
    # Broken files make decoders raise anything.
    except Exception as error:
        raise UnreadableSampleError(f"cannot read clip {path}: {_reason(error)}") from error


def frame_files(folder: Path) -> list[Path]:
    """Return the images of a folder, GIFs aside, in the order of their names, numbers by value: 9.png before 10.png."""
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    images = [name for name in names if os.path.splitext(name)[1].lower() in image_endings() - {".gif"}]
    return [folder / name for name in sorted(images, key=natural_order)]


def natural_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """Key that sorts names with the numbers in them by value."""
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


class _Indexed(ClipSource):
    """A source that knows the time of every frame. times: ascending from 0."""

    def __init__(self, times: list[Fraction], duration: Fraction) -> None:
        if not times:
            raise ValueError("it holds no frames")
        self.times = times
        self.duration = duration
        self.frame_rate = len(times) / duration

    def frames_from(self, start: Fraction) -> Iterator[TimedFrame]:
        first = max(0, bisect_right(self.times, start) - 1)
        for index in range(first, len(self.times)):
            yield TimedFrame(self.times[index], partial(self.picture, index))

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """Read frame `index`."""


class _Folder(_Indexed):
    timed = False

    def __init__(self, folder: Path) -> None:
        self._files = frame_files(folder)
        super().__init__([Fraction(index) for index in range(len(self._files))], Fraction(len(self._files)))

    def picture(self, index: int) -> Image.Image:
        return open_image(self._files[index])


class _Gif(_Indexed):
    """A GIF: Pillow decodes the frames before the first that is asked for, once, since each may build on the last."""

    timed = True

    def __init__(self, file: Image.Image, durations: list[Fraction]) -> None:
        self._file = file
        ends = list(accumulate(durations, initial=Fraction(0)))
        super().__init__(ends[:-1], ends[-1])

    def picture(self, index: int) -> Image.Image:
        self._file.seek(index)
        frame = self._file.convert("RGBA")
        white = Image.new("RGB", frame.size, "white")
        white.paste(frame, mask=frame.getchannel("A"))
        return white


class _Video(ClipSource):
    timed = True

    def __init__(self, file: Any) -> None:
        self._file = file
        self._converter = import_av().video.reformatter.VideoReformatter()
        with self._opened() as (container, stream):
            if stream.codec_context.width * stream.codec_context.height > _MOST_PIXELS:
                raise ValueError(f"its frames have more than {_MOST_PIXELS} pixels, which may be a trap")
            self._unit = Fraction(stream.time_base)
            self._origin = stream.start_time or 0
            self._aspect = Fraction(stream.sample_aspect_ratio or 1)
            rate = stream.average_rate or stream.guessed_rate
            self.frame_rate = Fraction(rate) if rate else Fraction(0)
            self.duration = self._stated_duration(container, stream)
        if not self.duration or not self.frame_rate:
            self._measure()

    def frames_from(self, start: Fraction) -> Iterator[TimedFrame]:
        """Decode from the last key frame before `start` on, from an earlier one where that begins too late."""
        target, step = start, _PRE_ROLL
        while True:
            with self._opened() as (container, stream):
                previous = None
                for frame in self._decoded(container, stream, target):
                    if previous is None and target > 0 and frame.time > start:
                        break
                    if previous is not None and frame.time > start:
                        yield previous
                    previous = frame
                else:
                    if previous is not None:
                        self.duration = previous.time + 1 / self.frame_rate
                        yield previous
                    if previous is not None or target <= 0:
                        return
            target, step = max(Fraction(0), target - step), 2 * step

    def _decoded(self, container: Any, stream: Any, target: Fraction) -> Iterator[TimedFrame]:
        """Decode from the last key frame before `target` on. Raises ValueError, or what PyAV raises, if damaged."""
        if target > 0:
            with suppress(import_av().FFmpegError):  # what cannot be searched is decoded from its beginning
                container.seek(self._origin + int(target / self._unit), stream=stream)
        first: int | None = None
        for packet in container.demux(stream):
            first = packet.pts if first is None else first
            for frame in packet.decode():
                # One shown before the key frame that precedes it in the file needs an earlier one.
                if first is not None and frame.pts is not None and frame.pts < first:
                    continue
                if frame.pts is None or frame.is_corrupt:
                    raise ValueError(f"a frame after {float(target):.1f} s is damaged")
                picture = partial(self._to_image, frame)
                yield TimedFrame((frame.pts - self._origin) * self._unit, picture)

    def _to_image(self, frame: Any) -> Image.Image:
        """Convert a decoded frame to RGB: upright, square pixels."""
        # What players take for granted of a large one that does not say.
        source = "ITU709" if frame.colorspace == _UNSPECIFIED and frame.height >= 720 else None
        converted = self._converter.reformat(frame, format="rgb24", src_colorspace=source, threads=1)
        image = Image.fromarray(converted.to_ndarray())
        if self._aspect != 1:
            image = image.resize((max(1, round(image.width * self._aspect)), image.height), Image.Resampling.BICUBIC)
        turned = round(frame.rotation / 90) % 4
        return image.transpose(_TURNS[turned]) if turned else image

    def _stated_duration(self, container: Any, stream: Any) -> Fraction:
        if stream.duration:
            return stream.duration * self._unit
        return Fraction(container.duration or 0, 1_000_000)

    def _measure(self) -> None:
        """Learn duration and frame rate from the packets, none of which is decoded: a stream that was cut off."""
        with self._opened() as (container, stream):
            times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        if not times:
            raise ValueError("it holds no frames")
        span = (max(times) - min(times)) * self._unit
        self.frame_rate = self.frame_rate or ((len(times) - 1) / span if span else Fraction(1))
        self.duration = span + 1 / self.frame_rate

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        av = import_av()
        self._file.seek(0)
        with av.open(self._file, options={"format_whitelist": _CONTAINERS}) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError("it holds no video")
            if stream.codec_context is None:
                raise ValueError("its codec is unknown to this FFmpeg; convert it, to H.264 say")
            stream.codec_context.thread_count = 1  # the workers are as many as the cores
            yield container, stream


def import_av() -> Any:
    """Import PyAV. Raises PluginError that names the extra where it is missing."""
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise PluginError(
            f"video files need PyAV: pip install 'decomposable-flow-matching[video]' ({error}); "
            "GIFs and folders of frames are read without"
        ) from error
    return av


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    damaged = any(words in text for words in ("Invalid data", "Invalid argument"))
    return "it is damaged or in no known format" if damaged else text
