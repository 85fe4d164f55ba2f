"""Read generated clips of which some are damaged: is one lost, or altered without a word?

    python benchmarks/video_decoding.py                # 8 of the 24 frames of 1,000 clips, 50 of them damaged
    python benchmarks/video_decoding.py --frames 24    # whole clips: every damaged one must be named
    python benchmarks/video_decoding.py --epochs 8     # another part of every file in each epoch
    python benchmarks/video_decoding.py --step-ms 500  # and the share of reading in such a training step

Prints, by format, of the sound clips how many were read, lost, and altered (further from what was drawn than a codec
takes them); of the damaged ones how many were named, passed (read, never named, and every frame that of the undamaged
file: the damage lies elsewhere), altered, and none of these. Then what reading costs: finding and decoding the frames,
against converting and scaling them. Exit code 1 where a clip was lost or altered, or a damaged one neither named nor
passed; with whole clips also where one was passed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from damaged_clips import FRAMES, WRITERS, damage_clips, draw, format_of, path_of, write_clips
from PIL import Image
from torch import Tensor

from dfm_core import clips
from dfm_core.clip_sources import TimedFrame
from dfm_core.clips import read_clip
from dfm_core.images import fit_image, to_pixels, to_tensor
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.training.data import BatchStream
from dfm_plugins.datasets.specs import VideoFolderOptions
from dfm_plugins.datasets.video_folder import VideoFolder

SIZE = (32, 32)
CODEC_LOSS = 0.06
"""Mean difference of a frame's values, in [-1, 1]. H.264 and VP8 stayed below 0.035; another clip is 0.13 away."""


class Tally(NamedTuple):
    """What became of the clips of a format: counts, in the words at the top."""

    sound: int
    read: int
    lost: int
    altered: int
    damaged: int
    named: int
    passed: int
    altered_damaged: int
    neither: int

    def failed(self, whole: bool) -> bool:
        """Whether a clip was lost or altered, or a damaged one passed where clips were read whole."""
        return bool(self.lost or self.altered or self.altered_damaged or self.neither or (whole and self.passed))


def difference(clip: Tensor, whole: Tensor) -> float:
    """How far `clip` (3, F, H, W) is from the nearest F frames in a row of `whole` (3, T, H, W).

    Of each frame the mean over its values, of these the largest.
    """
    windows = whole.unfold(1, clip.shape[1], 1).movedim(-1, 2)  # (3, T - F + 1, F, H, W)
    return float((windows - clip.unsqueeze(1)).abs().mean((0, 3, 4)).amax(1).min())


def is_as_drawn(clip: Tensor, index: int) -> bool:
    """Whether what was read is what was drawn, but for the loss of a codec."""
    frames = [Image.fromarray(to_pixels(frame)) for frame in draw(index).unbind(1)]
    return difference(clip, torch.stack([to_tensor(fit_image(frame, SIZE)) for frame in frames], 1)) <= CODEC_LOSS


def count(
    read: Mapping[int, list[Tensor]], named: set[int], sound: set[int], damaged: set[int], undamaged: Path
) -> Tally:
    """Count what became of clips. read: by index, every time. undamaged: folder of the damaged ones' first files."""
    altered = {index for index in sound & {*read} if not all(is_as_drawn(clip, index) for clip in read[index])}
    as_before = {index: read_clip(path_of(undamaged, index), None, SIZE) for index in damaged & {*read}}
    wrong = {index for index, whole in as_before.items() if any(difference(clip, whole) for clip in read[index])}
    passed = {*as_before} - named - wrong
    lost = sound - {*read} | sound & named
    neither = damaged - {*read} - named
    sets = (sound, sound & {*read}, lost, altered, damaged, damaged & named, passed, wrong, neither)
    return Tally(*map(len, sets))


def print_tallies(tallies: Mapping[str, Tally]) -> None:
    """Print a row a format, and their sum."""
    columns = ("sound", "read", "lost", "altered", "damaged", "named", "passed", "altered", "neither")
    print(" " * 6 + "".join(f"{column:>9}" for column in columns))
    sums = Tally(*map(sum, zip(*tallies.values(), strict=True)))
    for name, row in {**tallies, "all": sums}.items():
        print(f"{name:6}" + "".join(f"{number:9}" for number in row))


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


def print_cost(root: Path, sound: set[int], frames: int, step_ms: float | None, batch_size: int) -> None:
    """Print milliseconds a clip for every format, in this process, and where they go."""
    for name in WRITERS:
        chosen = sorted(index for index in sound if format_of(index) == name)[:40]
        spent: list[float] = []
        with converting_timed(spent):
            start = time.perf_counter()
            for index in chosen:
                read_clip(path_of(root, index), frames, SIZE, start=index / 1e3 % 1)
            whole = time.perf_counter() - start
        cost = 1e3 * whole / len(chosen)
        share = f", {cost * batch_size / step_ms:.1%} of a step of {batch_size}" if step_ms else ""
        found = 1 - sum(spent) / whole
        print(f"{name:6} {cost:6.2f} ms/clip of {frames} frames{share}; finding and decoding {found:.0%} of it")


def main(argv: list[str] | None = None) -> int:
    """Write, read, compare, measure; tell by the exit code whether nothing was lost and nothing altered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--damaged", type=float, default=0.05, help="share of the clips")
    parser.add_argument("--frames", type=int, default=8, choices=range(1, FRAMES + 1), metavar=f"1…{FRAMES}")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--step-ms", type=float, help="time of a training step at this batch size, for the share")
    arguments = parser.parse_args(argv)
    number, frames, batch_size = arguments.clips, arguments.frames, arguments.batch_size
    with tempfile.TemporaryDirectory() as folder:
        root, undamaged = Path(folder, "clips"), Path(folder, "undamaged")
        write_clips(root, range(number))
        damaged = {*damage_clips(root, number, arguments.damaged)}
        write_clips(undamaged, damaged)
        dataset = VideoFolder(VideoFolderOptions(path=str(root)), DatasetFacts((frames, *SIZE), "train", 0))
        stream = BatchStream(dataset, batch_size, 0, workers=arguments.workers, warn=lambda message: None)
        start = time.perf_counter()
        batches = list(stream.batches(0, -(-number * arguments.epochs // batch_size)))
        cost = 1e3 * (time.perf_counter() - start) / (number * arguments.epochs)
        read: defaultdict[int, list[Tensor]] = defaultdict(list)
        for batch in batches:
            for index, clip in zip(batch["label"].tolist(), batch["video"], strict=True):
                read[index].append(clip)
        messages = "\n".join(stream.unreadable)
        named = {index for index in range(number) if f"{os.sep}{index:05}{os.sep}" in messages}
        tallies = {}
        for name in WRITERS:
            own = {index for index in range(number) if format_of(index) == name}
            tallies[name] = count(read, named, own - damaged, own & damaged, undamaged)
        print(f"{frames} of {FRAMES} frames of {number} clips, epochs: {arguments.epochs}; {cost:.1f} ms/clip")
        print_tallies(tallies)
        print_cost(root, {*range(number)} - damaged, frames, arguments.step_ms, batch_size)
    return int(any(row.failed(frames == FRAMES) for row in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
