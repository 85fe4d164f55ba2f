"""Files below a folder of the user's, and the classes that its sub-folders are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dfm_core.errors import DataError


def check_folder(root: Path, expected: str) -> None:
    """Raise DataError unless a path is a folder. expected: what the message says of it."""
    if not root.exists():
        raise DataError(f"no folder {root.absolute()}; {expected}; give its path with --data")
    if not root.is_dir():
        raise DataError(f"{root} is a file; {expected}")


def files_below(root: Path) -> list[str]:
    """Names below a folder, relative with forward slashes, hidden ones aside; a folder that is linked twice once."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot list {error.filename}: {error.strerror}; check its permissions") from error

    files: list[str] = []
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in visited:  # a link in a circle
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(folder).relative_to(root)
        files += [(relative / name).as_posix() for name in names if not name.startswith(".")]
    return files


def ending_of(name: str) -> str:
    """Ending of a file's name, lower case with its dot."""
    return os.path.splitext(name)[1].lower()


def listed_endings(names: Iterable[str]) -> str:
    """Say how many files there are of the commonest endings."""
    counts = Counter(ending_of(name) or "none" for name in names)
    return ", ".join(f"{count} ending in {ending}" for ending, count in counts.most_common(5)) or "no files at all"


def class_folders(root: Path, names: Iterable[str], noun: str) -> tuple[str, ...]:
    """Return the sub-folders at the top, sorted, or () where everything lies at the top. noun: what the names are.

    Raises DataError for some beside the sub-folders of others.
    """
    names = list(names)
    tops = {class_folder(name) for name in names}
    if "" in tops and len(tops) > 1:
        beside = next(name for name in names if not class_folder(name))
        named = ", ".join(sorted(tops - {""})[:3])
        raise DataError(
            f"{root} holds {noun} both in sub-folders ({named}) and beside them ({beside}); "
            "expected one or the other: move them, or set dataset.options.labels=false to use all without labels"
        )
    return tuple(sorted(tops - {""}))


def class_folder(name: str) -> str:
    """Sub-folder at the top in which a relative name lies; "" at the top itself."""
    return name.partition("/")[0] if "/" in name else ""
