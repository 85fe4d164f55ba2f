"""What metrics keep of a reference: computed once, under a key of what it was computed from, whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor

from dfm_core.errors import DataError, DFMError
from dfm_core.evaluation.sample_store import digest_of
from dfm_core.latent_shards import write_json
from dfm_core.training.tensor_file import write_tensors

_TENSORS, _DESCRIPTION, _LOCKS = "tensors.safetensors", "description.json", "locks"


def default_cache() -> Path:
    """Folder `dfm/reference` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dfm" / "reference"


class ReferenceCache:
    """Entries of tensors, each in a folder of its own beside a description of what they were computed from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, description: Mapping[str, Any]) -> Path:
        """Folder of an entry. description: plain data, all that the tensors depend on."""
        name = str(description["metric"]["name"]).replace("/", "-")
        return self.folder / f"{name}-{digest_of(description)}"

    def load(self, description: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Tensors of an entry, None where there is none. Raises DataError for one that cannot be read."""
        place = self.place(description)
        if not place.is_dir():
            return None
        try:
            return load_file(place / _TENSORS)
        except Exception as error:
            raise DataError(f"cannot read {place}: {error}; remove that folder, and it is computed again") from error

    @contextmanager
    def making(self, description: Mapping[str, Any]) -> Iterator[None]:
        """Hold an entry while it is made: another process that wants it waits, and finds it.

        Where nothing can be written, or the file system knows no locks, each process makes its own.
        """
        lock = FileLock(self.folder / _LOCKS / self.place(description).name)
        with suppress(OSError, NotImplementedError):
            (self.folder / _LOCKS).mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def store(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write an entry; where another process was quicker, its own stays. Raises DFMError."""
        place = self.place(description)
        partial = self.folder / f".{place.name}.{uuid.uuid4().hex}"
        try:
            partial.mkdir(parents=True)
            write_tensors(partial / _TENSORS, tensors)
            write_json(partial / _DESCRIPTION, description)
            if not place.exists():
                os.rename(partial, place)
        except OSError as error:
            if not place.is_dir():
                raise DFMError(
                    f"cannot write the reference statistics to {self.folder}: {error}. Is the disk full? "
                    "--cache FOLDER puts them elsewhere"
                ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
