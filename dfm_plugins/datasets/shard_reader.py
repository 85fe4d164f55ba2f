"""Bytes of samples out of shards: few shards are open at a time, each with the index of its samples."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dfm_core.errors import DataError, UnreadableSampleError
from dfm_core.interfaces.dataset import Split
from dfm_plugins.datasets.augmentation import split_of
from dfm_plugins.datasets.shard_cache import ShardCache
from dfm_plugins.datasets.shard_sources import is_remote, printable
from dfm_plugins.datasets.tar_index import NO_LABEL, Naming, ShardIndex, file_version, read_index, write_index
from dfm_plugins.datasets.tar_scan import NoArchiveError, scan_shard

Result = TypeVar("Result")

_ATTEMPTS = 3
_LARGEST_FILE = 1 << 30


@dataclass(frozen=True)
class Selection:
    """Which samples of the shards belong to a split: a share, by a hash of their keys; all where the share is 0."""

    seed: int
    split: Split
    validation_fraction: float

    def rows(self, index: ShardIndex) -> NDArray[np.intp]:
        """Return the rows of the chosen samples."""
        if not self.validation_fraction:
            return np.arange(len(index))
        keys = map(index.key, range(len(index)))
        return np.flatnonzero([split_of(self.seed, key, self.validation_fraction) == self.split for key in keys])


@dataclass(frozen=True)
class OpenShard:
    """A shard that can be read from. rows: of the chosen samples."""

    name: str
    file: IO[bytes]
    index: ShardIndex
    rows: NDArray[np.intp]

    def read(self, row: int) -> bytes:
        """Bytes of the image or latent of a sample. Raises UnreadableSampleError."""
        offset, size = int(self.index.offsets[row]), int(self.index.sizes[row])
        if size > _LARGEST_FILE:
            raise UnreadableSampleError(f"{self.file_name(row)} has {size} bytes, expected at most {_LARGEST_FILE}")
        try:
            self.file.seek(offset)
            content = self.file.read(size)
        except OSError as error:
            raise UnreadableSampleError(f"cannot read {self.file_name(row)}: {error.strerror}") from error
        if len(content) < size:
            raise UnreadableSampleError(f"cannot read {self.file_name(row)}: the shard has become shorter")
        return content

    def file_name(self, row: int) -> str:
        """Name of that file, and of the shard that it is in."""
        # A key may hold anything: as repr writes it, it cannot steer a terminal.
        return f"{self.name}: {self.index.key(row)!r:.200} (.{self.ending(row)})"

    def ending(self, row: int) -> str:
        """Ending of that file."""
        return self.index.ending_names[self.index.endings[row]]

    def label(self, row: int) -> str | None:
        """Text of the sample's label, None where it has none."""
        number = int(self.index.labels[row])
        return None if number == NO_LABEL else self.index.label_names[number]


class ShardReader:
    """Opens shards and keeps the `keep` last ones open; a pickled copy has none open."""

    def __init__(self, cache: ShardCache, naming: Naming, selection: Selection, keep: int) -> None:
        self.selection = selection
        self._cache = cache
        self._naming = naming
        self._keep = keep
        self._open: OrderedDict[str, OpenShard] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def __del__(self) -> None:
        for shard in self.__dict__.get("_open", {}).values():
            shard.file.close()

    def has_index(self, shard: str) -> bool:
        """Whether an index of a shard has been kept, be it an old one."""
        return self._cache.index_path(shard).exists()

    def index(self, shard: str) -> ShardIndex:
        """Return the index of a shard: a kept one where it still holds, else from a pass over the shard's headers."""
        return self._with_copy(shard, lambda: self._index(shard))

    def open(self, shard: str) -> OpenShard:
        """Return a shard ready to be read from, fetched where it is remote. Raises DataError."""
        if shard in self._open:
            self._open.move_to_end(shard)
            self._cache.touch(shard)
            return self._open[shard]
        file = self._with_copy(shard, lambda: self._cache.path(shard).open("rb", buffering=0))
        try:
            index = self.index(shard)
        except DataError:
            file.close()
            raise
        opened = self._open[shard] = OpenShard(printable(shard), file, index, self.selection.rows(index))
        if len(self._open) > self._keep:
            _, oldest = self._open.popitem(last=False)
            oldest.file.close()
        return opened

    def _index(self, shard: str) -> ShardIndex:
        copy = self._cache.copy(shard)
        path = self._cache.index_path(shard)
        found = read_index(path, self._naming, file_version(copy) if copy else None)
        if found is not None:
            return found
        copy = self._cache.path(shard)
        with self._cache.locked(path):
            version = file_version(copy)
            return read_index(path, self._naming, version) or self._scan(shard, copy, path, version)

    def _scan(self, shard: str, copy: Path, path: Path, version: str) -> ShardIndex:
        try:
            index = scan_shard(copy, printable(shard), self._naming)
        except NoArchiveError:
            if is_remote(shard):
                copy.unlink(missing_ok=True)  # what a server sends in a bad moment must not stay
            raise
        write_index(path, self._naming, version, index)
        return index

    def _with_copy(self, shard: str, call: Callable[[], Result]) -> Result:
        """Return what a call finds in a shard's copy, which another process may remove at any moment."""
        for _ in range(_ATTEMPTS):
            try:
                return call()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise DataError(f"cannot open shard {printable(shard)}: {error.strerror}") from error
        raise DataError(
            f"shard {printable(shard)} is missing, or was removed from {self._cache.folder} again and again; "
            "put it back, or raise dataset.options.cache_gigabytes"
        )
