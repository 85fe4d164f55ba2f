"""Stored latents on disk: tar shards of `<key>.latent.npy` and `<key>.cls`, whole or absent, always the same bytes."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dfm_core.errors import DataError, DFMError, UsageError
from dfm_core.files import put_in_place
from dfm_core.interfaces.dataset import SHARD_DESCRIPTION, ShardDescription

REQUEST_FILE = "encoding.json"
"""What the shards of a folder are made from: there from the beginning, while `dataset.json` comes with the last one."""

LATENT = ".latent.npy"
LABEL = ".cls"


class LatentShards(ShardDescription):
    """`dataset.json`: what a reader must know, and how the latents were made."""

    precision: str = Field(description="Type of the stored numbers.")
    unreadable: int = Field(description="Images that could not be read, and so have no latent.")
    request: dict[str, Any] = Field(description="What was asked for: the content of encoding.json.")


def open_folder(folder: Path, request: Mapping[str, Any]) -> None:
    """Make a folder for shards, or go on with one. Raises UsageError if it holds something else, or another request."""
    file = folder / REQUEST_FILE
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} exists and holds no latents; give a new folder with --output")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, request)
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}; remove the folder and encode again") from error
    changed = changed_values(before, json.loads(json.dumps(request)))
    if changed:
        lines = [f"{key}: the folder has {old!r}, got {new!r}" for key, (old, new) in changed.items()]
        advice = f"{folder} holds latents that were made otherwise; give a new folder with --output"
        raise UsageError("\n".join([advice, *lines]))


def changed_values(before: Any, now: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> what two nested mappings have there, where they differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return {} if before == now else {path: (before, now)}
    return {
        key: values
        for name in sorted({*before, *now})
        for key, values in changed_values(before.get(name), now.get(name), f"{path}.{name}".lstrip(".")).items()
    }


@contextmanager
def writing_shard(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a shard that appears under its name when all of it is on the disk, or not at all."""
    with complete_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        yield tar


def add_latent(tar: tarfile.TarFile, key: str, latent: NDArray[Any], label: int | None) -> None:
    """Add one sample. latent: (C, H, W), of clips (C, T, H, W), in the type that is stored."""
    content = BytesIO()
    np.save(content, latent, allow_pickle=False)
    _add(tar, key + LATENT, content.getvalue())
    if label is not None:
        _add(tar, key + LABEL, str(label).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # neither owner nor time: the same latents are the same bytes
    member.size = len(content)
    tar.addfile(member, BytesIO(content))


def count_latents(path: Path) -> int:
    """How many latents a finished shard holds. Raises DataError if it is no tar file."""
    try:
        with tarfile.open(path) as tar:
            return sum(member.name.endswith(LATENT) for member in tar)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"cannot read the shard {path}: {error}; remove it and encode again") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a mapping; the file appears complete or not at all."""
    with complete_file(path) as file:
        file.write(json.dumps(values, indent=1).encode())


def describe_shards(folder: Path, description: LatentShards) -> None:
    """Write `dataset.json`, which says that the folder is complete."""
    write_json(folder / SHARD_DESCRIPTION, description.model_dump(mode="json"))


@contextmanager
def complete_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that is written under a temporary name, flushed, and renamed at the end.

    Raises DFMError where the disk is full or may not be written; then nothing of it remains.
    """
    for stale in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed
        stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        put_in_place(temporary, path)
    except OSError as error:
        raise DFMError(
            f"cannot write {path}: {error}. Is the disk full? What is finished stays, and the same command goes on"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
