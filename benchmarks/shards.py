"""Reading samples of tar shards against reading the same files from a folder: `python benchmarks/shards.py`.

Both sides load the same samples in the same order, that of an epoch, interleaved in one process; beside each ratio
stands the folder against itself. Cold: the operating system was asked to forget the files before every round (what a
disk keeps for itself, or a file system in memory, stays).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from paired import Ratio, ratio_of_times
from PIL import Image

from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.training.order import EpochOrder
from dfm_plugins.datasets.folder import Folder
from dfm_plugins.datasets.latents import read_latent
from dfm_plugins.datasets.specs import FolderOptions, WebDatasetOptions
from dfm_plugins.datasets.webdataset import WebDataset

SHARDS = 20
LATENT = (4, 32, 32)
PICTURES = {"images 64x64": (64, 64), "photos 640x480": (640, 480)}
"""Name -> width × height."""


def latents(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of `count` latents of 8 KB."""
    generator = np.random.default_rng(0)
    for number in range(count):
        file = io.BytesIO()
        np.save(file, generator.normal(size=LATENT).astype(np.float16))
        yield f"{number:06}.npy", file.getvalue()


def pictures(count: int, width: int, height: int) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of `count` JPEG files."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        yield f"{number:06}.jpg", file.getvalue()


def write(files: list[tuple[str, bytes]], place: Path) -> None:
    """Write the same files to place/folder and, in SHARDS shards, to place/shards."""
    (place / "folder").mkdir(parents=True)
    (place / "shards").mkdir()
    counts, size = {}, -(-len(files) // SHARDS)
    for first in range(0, len(files), size):
        part = files[first : first + size]
        counts[f"{first // size:04}.tar"] = len(part)
        with tarfile.open(place / "shards" / f"{first // size:04}.tar", "w") as shard:
            for name, content in part:
                (place / "folder" / name).write_bytes(content)
                info = tarfile.TarInfo(name)
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    if files[0][0].endswith(".npy"):
        description = {"shards": counts, "autoencoder": "none", "latent_shape": LATENT}
        (place / "shards" / "dataset.json").write_text(json.dumps(description))
    os.sync()


def forget(place: Path) -> None:
    """Ask the operating system to drop the files' pages."""
    for path in place.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ratio(first: Callable[[], object], second: Callable[[], object], before: Callable[[], object], pairs: int) -> Ratio:
    """Ratio time(first) / time(second) over interleaved pairs, after one unmeasured call of each."""
    first(), second()
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for call, side in ((first, 0), (second, 1)) if pair % 2 == 0 else ((second, 1), (first, 0)):
            before()
            start = time.perf_counter()
            call()
            times[side].append(time.perf_counter() - start)
    return ratio_of_times(*times)


def readers(place: Path, size: tuple[int, int], number: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return calls that load the first `number` samples of an epoch: from the shards, and from the folder."""
    facts = DatasetFacts(size, "train", 0)
    shards = WebDataset(WebDatasetOptions(path=str(place / "shards"), cache=str(place / "cache")), facts)
    order = EpochOrder(shards, 0).indices(0, 0, number)
    if shards.latents is not None:
        names = [place / "folder" / f"{index:06}.npy" for index in order]
        return (
            lambda: [shards.load(index, 0) for index in order],
            lambda: [read_latent(path.read_bytes(), "npy", LATENT, path.name) for path in names],
        )
    folder = Folder(FolderOptions(path=str(place / "folder")), facts)
    return lambda: [shards.load(index, 0) for index in order], lambda: [folder.load(index, 0) for index in order]


def report(name: str, place: Path, size: tuple[int, int], number: int, pairs: int) -> None:
    """Print a line warm and one cold."""
    shards, folder = readers(place, size, number)
    for state, before in (("warm", lambda: None), ("cold", lambda: forget(place))):
        against = ratio(shards, folder, before, pairs)
        itself = ratio(folder, folder, before, pairs)
        print(f"{name:16} {state}  shards / folder {against}  folder / folder {itself}")


def main() -> None:
    """Print the ratios, and what the first start costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--read", type=int, default=200, help="samples of a round")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--place", help="folder on the disk to measure; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.place) as temporary:
        place = Path(temporary)
        write(list(latents(arguments.files)), place / "latents")
        start = time.perf_counter()
        readers(place / "latents", (256, 256), 1)
        first = time.perf_counter() - start
        start = time.perf_counter()
        readers(place / "latents", (256, 256), 1)
        print(
            f"start with {arguments.files} samples in {SHARDS} shards: {first:.2f} s the first time "
            f"({1e6 * first / arguments.files:.0f} us a sample), {time.perf_counter() - start:.2f} s afterwards"
        )
        report("latents 8 KB", place / "latents", (256, 256), arguments.read, arguments.pairs)
        for name, (width, height) in PICTURES.items():
            count = min(arguments.files, 4000 * 64 * 64 // (width * height) + 400)
            write(list(pictures(count, width, height)), place / name)
            report(name, place / name, (64, 64), min(arguments.read, count), arguments.pairs)


if __name__ == "__main__":
    main()
