"""Where the samples of a tar shard lie, kept in a file, so that a shard's headers are read once."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dfm_core.errors import DataError
from dfm_core.files import put_in_place

NO_LABEL = -1
_FORMAT = "1"


@dataclass(frozen=True)
class Naming:
    """Which files of a sample count. media, label: endings, None for the usual ones. labels: whether to read any."""

    media: str | None = None
    labels: bool = True
    label: str | None = None
    label_key: str = "label"


@dataclass(frozen=True)
class ShardIndex:
    """The N samples of a shard, in the order in which they first appear.

    offsets, sizes: (N,) of the image or latent in bytes. endings, labels: (N,) into ending_names and label_names; no
    label is NO_LABEL. keys: the samples' keys as UTF-8 one after another, key_ends: (N,) where each ends. skipped: why
    members were passed over -> how many. damage: what is wrong after the last sample, or "". fingerprint: of the rest.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    endings: NDArray[np.int64]
    labels: NDArray[np.int64]
    keys: NDArray[np.uint8]
    key_ends: NDArray[np.int64]
    ending_names: tuple[str, ...]
    label_names: tuple[str, ...]
    skipped: dict[str, int]
    damage: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.offsets)

    def key(self, row: int) -> str:
        """Key of a sample."""
        start = int(self.key_ends[row - 1]) if row else 0
        return self.keys[start : int(self.key_ends[row])].tobytes().decode()


def file_version(shard: Path) -> str:
    """What changes when a file does: its size and its time of change."""
    state = shard.stat()
    return f"{state.st_size} {state.st_mtime_ns}"


def read_index(path: Path, naming: Naming, version: str | None) -> ShardIndex | None:
    """Read an index; None where there is none, a broken one, or one of another naming or version of the shard.

    version: None where the shard is not at hand, and any will do.
    """
    try:
        with safe_open(path, framework="np") as file:
            saved = file.metadata() or {}
            if saved.get("naming") != _naming(naming) or version not in (None, saved.get("version")):
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        plain: dict[str, Any] = json.loads(saved["plain"])
        plain["ending_names"], plain["label_names"] = tuple(plain["ending_names"]), tuple(plain["label_names"])
        return ShardIndex(**arrays, **plain)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def write_index(path: Path, naming: Naming, version: str, index: ShardIndex) -> None:
    """Write an index; the file appears complete or not at all. Raises DataError where it cannot."""
    fields = asdict(index)
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in fields.items() if name not in arrays}
    metadata = {"naming": _naming(naming), "version": version, "plain": json.dumps(plain)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        # Not save_file: only its owner may read what that writes, whatever the umask says.
        temporary.write_bytes(save(arrays, metadata))
        put_in_place(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}; choose another folder with dataset.options.cache") from error
    finally:
        temporary.unlink(missing_ok=True)


def _naming(naming: Naming) -> str:
    return json.dumps([_FORMAT, *asdict(naming).values()])
