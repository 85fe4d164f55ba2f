"""Generated images or clips on disk, with what they were made with: each is made once, whoever asks for it."""

from __future__ import annotations

import bisect
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import safe_open
from torch import Tensor

from dfm_core.errors import DataError, DFMError
from dfm_core.evaluation.image_sets import all_blocks
from dfm_core.files import complete_or_absent
from dfm_core.images import to_uint8
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from dfm_core.latent_shards import write_json
from dfm_core.plugins import Options
from dfm_core.stages import Size
from dfm_core.training.distributed import World
from dfm_core.training.tensor_file import write_tensors

REQUEST_FILE = "request.json"
_LOCK, _BROKEN = "lock", "broken"
_FILE = re.compile(r"(\d+)-(\d+)\.safetensors")
_NAME = "{:08d}-{:08d}.safetensors"

Generate = Callable[[range], tuple[Tensor, list[int] | None]]
"""Images (B, C, H, W) or clips (B, C, T, H, W) in [-1, 1] of a range of indices, and their classes, if any."""


def digest_of(values: Mapping[str, Any]) -> str:
    """Digest of plain data, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


class SampleStore:
    """A folder of files `first-stop.safetensors` with images or clips in 8 bits, for one request."""

    def __init__(self, root: Path, request: Mapping[str, Any], size: Size) -> None:
        """Name the folder below `root` after the request: plain data, all that the images depend on. size: of each."""
        self.folder, self.request, self.size = root / digest_of(request), request, size

    def ranges(self) -> list[range]:
        """Indices of the images that are there, one range a file, in order."""
        found = [_FILE.fullmatch(path.name) for path in self.folder.glob("*.safetensors")]
        return sorted((range(int(m[1]), int(m[2])) for m in found if m), key=lambda part: (part.start, part.stop))

    def broken(self, num: int) -> int:
        """How many of the files' images below `num`, and of those beside them, held numbers that were not finite."""
        found = 0
        for part in self.ranges():
            if part.start < num:
                with _opened(self.folder / _NAME.format(part.start, part.stop)) as file:
                    found += int(file.get_tensor(_BROKEN)) if _BROKEN in file.keys() else 0  # noqa: SIM118
        return found

    def missing(self, num: int) -> list[range]:
        """Indices below `num` that are not there, in ranges within blocks."""
        there = {index for part in self.ranges() for index in part}
        gaps: list[range] = []
        for block in all_blocks(num, self.size):
            start = block.start
            for index in (*block, block.stop):
                if index == block.stop or index in there:
                    gaps += [range(start, index)] if index > start else []
                    start = index + 1
        return gaps

    def fill(self, num: int, generate: Generate, world: World, report: Callable[[int, int], None]) -> None:
        """Make the images below `num` that are missing, every process its own. All processes must call.

        report: told (made, to be made) by this process after every file. Another command that wants images of the same
        request waits, and finds them.
        """
        lock = FileLock(self.folder / _LOCK)
        try:
            world.once(lambda: self._open(lock))
            missing = world.once(lambda: [(part.start, part.stop) for part in self.missing(num)])
            own = [range(start, stop) for start, stop in missing[world.index :: world.size]]
            made, total = 0, sum(map(len, own))
            for part in own:
                images, labels = generate(part)
                self._write(part, images, labels)
                made += len(part)
                report(made, total)
            world.gather(None)
        finally:
            lock.release()

    def _open(self, lock: FileLock) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(NotImplementedError):  # a file system without locks
                lock.acquire()
            if not (self.folder / REQUEST_FILE).exists():
                write_json(self.folder / REQUEST_FILE, self.request)
        except OSError as error:
            raise DFMError(f"cannot write into {self.folder}: {error.strerror}") from error

    def _write(self, part: range, images: Tensor, labels: list[int] | None) -> None:
        tensors = {"images": to_uint8(images)}
        if broken := int((~images.flatten(1).isfinite().all(1)).sum()):  # eight bits show them as black
            tensors[_BROKEN] = torch.tensor(broken)
        if labels is not None:
            tensors["labels"] = torch.tensor(labels)
        save_complete(self.folder / _NAME.format(part.start, part.stop), tensors)


def save_complete(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that appears complete or not at all. Raises DFMError."""
    try:
        with complete_or_absent(path) as temporary:
            write_tensors(temporary, tensors)
    except OSError as error:
        raise DFMError(f"cannot write {path}: {error}. Is the disk full? The same command goes on") from error


class StoredSamples(Dataset):
    """The first `num` images of a store. broken: how many held numbers that were not finite."""

    def __init__(self, store: SampleStore, num: int, classes: tuple[str, ...]) -> None:
        super().__init__(Options(), DatasetFacts(store.size, "train", 0))
        self._num, self._classes, self._folder = num, classes, store.folder
        self._ranges = store.ranges()
        self.broken = store.broken(num)

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the model."""
        return self._classes

    def __len__(self) -> int:
        return self._num

    def load(self, index: int, epoch: int) -> Sample:
        """Image or clip, and label, `index`."""
        part = self._ranges[bisect.bisect_right([part.start for part in self._ranges], index) - 1]
        tensors = _read(self._folder / _NAME.format(part.start, part.stop))
        values = tensors["images"][index - part.start].float() / 127.5 - 1
        sample: Sample = {"image" if values.ndim == 3 else "video": values}
        if "labels" in tensors:
            sample["label"] = int(tensors["labels"][index - part.start])
        return sample


@lru_cache(maxsize=4)
def _read(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file of samples. Raises DataError for one that cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except Exception as error:
        raise DataError(f"cannot read the samples {path}: {error}; remove the file and evaluate again") from error
