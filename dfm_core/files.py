"""Files that appear under their names complete, or not at all: after a crash, and after a power cut."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk. Raises OSError."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(partial: Path, path: Path) -> None:
    """Give a file that is written whole and closed its final name, in the same folder. Raises OSError.

    First the content, then the name: else, after a power cut, the name may stand for missing content.
    """
    flush(partial)
    os.replace(partial, path)
    flush(path.parent)


def listing_digest(files: Iterable[Path], root: Path | None = None) -> str:
    """Digest of names (below `root`), sizes and times of files, 16 hexadecimal digits. Raises OSError.

    A folder stands for the files in it.
    """
    digest = hashlib.sha256()
    for path in files:
        for part in sorted(path.iterdir()) if path.is_dir() else [path]:
            status, name = part.stat(), part if root is None else part.relative_to(root)
            digest.update(f"{name.as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


@contextmanager
def complete_or_absent(path: str | Path) -> Iterator[Path]:
    """Give the name of a temporary file beside `path` that becomes it at the end, or goes where something fails.

    Makes the folder if it is missing. Raises OSError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
