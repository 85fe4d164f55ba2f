"""Video files whose frames show their number, so that one sees which of them were read; needs the extra `video`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BITS = 10
SIZE = (32, 80)
_BLOCK = 16


def numbered(number: int) -> NDArray[np.uint8]:
    """Frame (32, 80, 3) whose blocks are the binary digits of its number, before a colour that changes slowly."""
    digits = np.array([number >> bit & 1 for bit in range(BITS)], dtype=np.uint8).reshape(2, BITS // 2)
    grey = np.kron(40 + 170 * digits, np.ones((_BLOCK, _BLOCK), dtype=np.uint8))
    return np.stack([grey, grey, grey // 2 + np.uint8(number % 40)], axis=-1)


def numbers_of(clip: Tensor) -> list[int]:
    """Read the numbers from a clip (3, T, H, W) whose frames show them."""
    half = clip[0].unfold(1, clip.shape[2] // 2, clip.shape[2] // 2).unfold(2, clip.shape[3] // 5, clip.shape[3] // 5)
    digits = half.mean((-1, -2)).flatten(1) > 0
    return (digits.long() * 2 ** torch.arange(BITS)).sum(1).tolist()


def write_video(
    path: Path,
    frames: int = 24,
    *,
    first: int = 0,
    codec: str = "libx264",
    rate: int = 24,
    times: Sequence[int] | None = None,
    key_frames: int = 12,
    b_frames: int = 0,
    seconds_of_audio: float = 0,
    container_options: dict[str, str] | None = None,
    turned: int = 0,
    wide: int = 1,
    **options: str,
) -> Path:
    """Write numbered frames.

    first: number of the first. times: of the frames, in units of 1/rate, for a varying rate. key_frames: from one to
    the next at most. turned: degrees by which a player is to turn it. wide: width of a pixel by its height.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = SIZE
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = "yuv420p", key_frames, b_frames
        stream.codec_context.thread_count = 1
        stream.codec_context.sample_aspect_ratio = Fraction(wide)
        if turned:
            stream.set_display_rotation(turned)
        audio = container.add_stream("libopus", rate=48_000) if seconds_of_audio else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(first + index), format="rgb24")
            frame.pts, frame.time_base = (times[index] if times else index), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            add_silence(container, audio, seconds_of_audio)
    return path


def add_silence(container: Any, stream: Any, seconds: float) -> None:
    """Write sound that cannot be heard to a stream of 48 kHz."""
    import av

    silence = np.zeros((1, int(48_000 * seconds)), dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(silence, format="flt", layout="mono")
    frame.sample_rate = 48_000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
