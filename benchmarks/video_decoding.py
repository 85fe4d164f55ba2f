"""Read 1,000 generated clips of which 5% are damaged: `python benchmarks/video_decoding.py --step-ms 500`.

Says whether every sound clip was read and every damaged one named, and what reading costs: of a step, and of itself
(finding and decoding the frames against converting and scaling them). Exits with 1 where a clip was lost.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch import Tensor

from dfm_core import clips
from dfm_core.clip_sources import TimedFrame
from dfm_core.clips import read_clip, write_gif, write_mp4
from dfm_core.images import save_png, to_pixels
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.training.data import BatchStream
from dfm_plugins.datasets.moving_shapes import MovingShapes
from dfm_plugins.datasets.specs import MovingShapesOptions, VideoFolderOptions
from dfm_plugins.datasets.video_folder import VideoFolder

FRAMES, SIZE = 24, (48, 64)
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 3],
    "text": lambda content: b"this is no clip\n" * 40,
    "header lost": lambda content: bytes(64) + content[64:],
    "frames overwritten": lambda content: (
        content[: len(content) // 3] + bytes(len(content) // 3) + content[2 * len(content) // 3 :]
    ),
}


def write_webm(path: Path, clip: Tensor) -> None:
    """Write a clip as WebM, a key frame every eighth."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=8)
        stream.height, stream.width = clip.shape[2:]
        stream.pix_fmt, stream.gop_size = "yuv420p", 8
        for frame in clip.unbind(1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(to_pixels(frame), format="rgb24")))
        container.mux(stream.encode(None))


def write_frames(path: Path, clip: Tensor) -> None:
    """Write a clip as a folder of PNG files."""
    for index, frame in enumerate(clip.unbind(1)):
        save_png(path / f"{index}.png", to_pixels(frame))


WRITERS: tuple[tuple[str, Callable[[Path, Tensor], None]], ...] = (
    ("clip.mp4", write_mp4),
    ("clip.webm", write_webm),
    ("clip.gif", write_gif),
    ("clip", write_frames),
)


def write_clips(root: Path, number: int, damaged: set[int]) -> None:
    """Write clips of all formats by turns, each in a folder of its own, so that its label says which it is."""
    source = MovingShapes(MovingShapesOptions(), DatasetFacts((FRAMES, *SIZE), "train", 0))
    kinds = list(DAMAGES.values())
    for index in range(number):
        name, write = WRITERS[index % len(WRITERS)]
        path = root / f"{index:05}" / name
        path.parent.mkdir()
        clip = source.load(index, 0)["video"]
        write(path, torch.as_tensor(clip))
        if index in damaged:
            file = path / f"{FRAMES // 2}.png" if path.is_dir() else path
            file.write_bytes(kinds[sorted(damaged).index(index) % len(kinds)](file.read_bytes()))


@contextmanager
def converting_timed(spent: list[float]) -> Iterator[None]:
    """Note the time that is spent after a frame is found: in its conversion to RGB, and in scaling it."""
    kept = clips._pick, clips.to_tensor, clips.fit_image

    def timed(function: Callable[..., object], *given: object) -> object:
        start = time.perf_counter()
        try:
            return function(*given)
        finally:
            spent.append(time.perf_counter() - start)

    def pick(*given: object) -> Iterator[TimedFrame]:
        for frame in kept[0](*given):  # type: ignore[arg-type]
            yield TimedFrame(frame.time, partial(timed, frame.picture))  # type: ignore[arg-type]

    clips._pick, clips.to_tensor, clips.fit_image = pick, partial(timed, kept[1]), partial(timed, kept[2])  # type: ignore[assignment]
    try:
        yield
    finally:
        clips._pick, clips.to_tensor, clips.fit_image = kept


def report_cost(root: Path, sound: list[int], frames: int, step_ms: float | None, batch_size: int) -> None:
    """Print milliseconds a clip for every format, in this process, and where they go."""
    for place, (name, _) in enumerate(WRITERS):
        chosen = [index for index in sound if index % len(WRITERS) == place][:40]
        spent: list[float] = []
        with converting_timed(spent):
            start = time.perf_counter()
            for index in chosen:
                read_clip(root / f"{index:05}" / name, frames, (32, 32), start=index / 1e3 % 1)
            whole = time.perf_counter() - start
        cost = 1e3 * whole / len(chosen)
        share = f", {cost * batch_size / step_ms:.1%} of a step of {batch_size}" if step_ms else ""
        found = 1 - sum(spent) / whole
        print(f"{name:10} {cost:6.2f} ms/clip of {frames} frames{share}; finding and decoding {found:.0%} of it")


def main() -> None:
    """Write, read one epoch, compare, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--damaged", type=float, default=0.05, help="share of the clips")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--step-ms", type=float, help="time of a training step at this batch size, for the share")
    arguments = parser.parse_args()
    number = arguments.clips
    order = np.random.default_rng(0).permutation(number)
    damaged = {int(index) for index in order[: round(number * arguments.damaged)]}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_clips(root, number, damaged)
        dataset = VideoFolder(VideoFolderOptions(path=folder), DatasetFacts((FRAMES, 32, 32), "train", 0))
        stream = BatchStream(dataset, arguments.batch_size, 0, workers=arguments.workers, warn=lambda message: None)
        start = time.perf_counter()
        steps = -(-number // arguments.batch_size)
        labels = [label for batch in stream.batches(0, steps) for label in batch["label"].tolist()]
        seconds = time.perf_counter() - start
        sound = sorted({*range(number)} - damaged)
        lost = {*sound} - {*labels}
        named = {index for index in damaged if any(f"{os.sep}{index:05}{os.sep}" in text for text in stream.unreadable)}
        print(f"{number} clips, {len(damaged)} damaged; {seconds:.1f} s, {1e3 * seconds / number:.1f} ms/clip")
        print(f"sound: {len(sound)}, read: {len({*labels} - damaged)}, lost: {len(lost)}")
        print(f"damaged: {len(damaged)}, named: {len(named)}, read as if sound: {len({*labels} & damaged)}")
        report_cost(root, sound, 8, arguments.step_ms, arguments.batch_size)
    sys.exit(bool(lost or named != damaged or len(stream.unreadable) != len(damaged)))


if __name__ == "__main__":
    main()
