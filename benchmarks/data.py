"""Time of making one image, and its share of a step: `python benchmarks/data.py --step-ms 200 --batch-size 32`.

One core makes the images; with w worker processes divide by up to w. Times are the smallest of several rounds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from itertools import islice
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from PIL import Image

from dfm_core.interfaces.dataset import Dataset, DatasetFacts
from dfm_core.training.data import BatchStream
from dfm_plugins.datasets.folder import Folder
from dfm_plugins.datasets.shapes import Shapes
from dfm_plugins.datasets.specs import FolderOptions, ShapesOptions

ROUNDS = 5
PHOTO = (1280, 960)


def microseconds(dataset: Dataset, seconds: float) -> float:
    """Return the time of loading one sample: the smallest mean of ROUNDS rounds of `seconds` each."""
    dataset.load(0, 0)
    best, index = float("inf"), 0
    for _ in range(ROUNDS):
        start, first = time.perf_counter(), index
        while (elapsed := time.perf_counter() - start) < seconds or index == first:
            index += 1
            dataset.load(index % len(dataset), 0)
        best = min(best, elapsed / (index - first))
    return 1e6 * best


def write_photos(folder: Path, count: int = 8) -> None:
    """Write JPEG files with as much detail as photographs have: noise that falls off with the frequency."""
    generator = np.random.default_rng(0)
    for index in range(count):
        layers = [generator.normal(0, 40 / 2**level, (PHOTO[1] >> level, PHOTO[0] >> level, 3)) for level in range(6)]
        total = sum(np.kron(layer * 2**level, np.ones((2**level, 2**level, 1))) for level, layer in enumerate(layers))
        Image.fromarray(np.clip(128 + total / 3, 0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=90)


def datasets(size: int, photos: Path) -> dict[str, Dataset]:
    """Return what is measured at size × size."""
    facts = DatasetFacts((size, size), "train", 0)
    made: dict[str, Dataset] = {
        f"shapes {texture}": Shapes(ShapesOptions.model_validate({"texture": texture}), facts)
        for texture in ("plain", "weak", "hard")
    }
    made[f"folder {PHOTO[0]}x{PHOTO[1]} jpeg"] = Folder(
        FolderOptions(path=str(photos), crop="random", flip=True), facts
    )
    return made


def main() -> None:
    """Print a table, then what batches cost beside their images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 256, 512, 1024])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--step-ms", type=float, help="time of a training step at this size, for the share")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each of the rounds")
    parser.add_argument("--workers", type=int, default=0, help="worker processes for the rate of batches")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as photos:
        write_photos(Path(photos))
        print(f"{'data set':24} {'size':>5} {'us/image':>9}" + (f" {'of step':>8}" if arguments.step_ms else ""))
        for size in arguments.sizes:
            for name, dataset in datasets(size, Path(photos)).items():
                cost = microseconds(dataset, arguments.seconds)
                share = f" {cost * arguments.batch_size / 1e3 / arguments.step_ms:8.1%}" if arguments.step_ms else ""
                print(f"{name:24} {size:5} {cost:9.0f}{share}")
    report_batches(arguments.sizes[0], arguments.batch_size, arguments.workers)


def report_batches(size: int, batch_size: int, workers: int) -> None:
    """Print the images a second that reach the trainer, workers started and warm."""
    stream = BatchStream(
        Shapes(ShapesOptions(), DatasetFacts((size, size), "train", 0)), batch_size, 0, workers=workers
    )
    batches = stream.batches()
    list(islice(batches, 10 + 2 * workers))
    start, steps = time.perf_counter(), 100
    list(islice(batches, steps))
    rate = steps * batch_size / (time.perf_counter() - start)
    print(
        f"batches of {batch_size} shapes at {size} px, {workers} workers: "
        f"{rate:.0f} images/s, {1e6 / rate:.0f} us/image"
    )


if __name__ == "__main__":
    main()
