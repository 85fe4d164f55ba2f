"""Which shards are meant: folders, files, patterns with braces and URLs, as one list in a fixed order."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from dfm_core.errors import DataError
from dfm_core.interfaces.dataset import SHARD_DESCRIPTION

ENCODING_REQUEST = "encoding.json"
"""What `dfm encode` writes into a folder first; `SHARD_DESCRIPTION` comes last."""
_MOST_SHARDS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def find_shards(path: str | Sequence[str]) -> list[str]:
    """Return the shards that a path, a pattern or a list of these stands for: absolute paths, and URLs as they are.

    Raises DataError where there is none, one is missing, or one is meant twice.
    """
    given = [path] if isinstance(path, str) else [*path]
    found = [shard for entry in given for shard in _shards_of(entry)]
    if not found:
        raise DataError("no shards: expected a folder of .tar files, a pattern or URLs, got an empty list")
    missing = [shard for shard in found if not is_remote(shard) and not os.path.isfile(shard)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(found)} shards are missing, first {missing[0]}; "
            "expected files: copy them there, or correct dataset.options.path"
        )
    twice = [shard for shard, count in Counter(map(_identity, found)).items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} shards are given twice, first {twice[0]}; expected each once")
    return found


def is_remote(shard: str) -> bool:
    """Whether a shard is a URL, to be fetched before it is read."""
    return "://" in shard


def printable(shard: str) -> str:
    """A shard's path, or its URL without what may be a secret: password and query."""
    if not is_remote(shard):
        return shard
    parts = urlsplit(shard)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def sibling(shard: str, name: str) -> str:
    """Address of a file in the same folder as a shard."""
    if not is_remote(shard):
        return os.path.join(os.path.dirname(shard), name)
    parts = urlsplit(shard)
    return parts._replace(path=f"{parts.path.rpartition('/')[0]}/{name}").geturl()


def base_name(shard: str) -> str:
    """File name of a shard, without its folder."""
    return (urlsplit(shard).path if is_remote(shard) else shard).rpartition("/" if is_remote(shard) else os.sep)[2]


def check_finished(folder: str | Path) -> None:
    """Raise DataError for a folder of latents that `dfm encode` has begun and not finished."""
    if os.path.exists(os.path.join(folder, ENCODING_REQUEST)) and not os.path.exists(
        os.path.join(folder, SHARD_DESCRIPTION)
    ):
        raise DataError(
            f"the encoding in {folder} is not finished: expected {SHARD_DESCRIPTION} beside its {ENCODING_REQUEST}; "
            "run the same `dfm encode` again, which goes on with it"
        )


def _shards_of(entry: str) -> list[str]:
    if is_remote(entry):
        return list(expand_braces(entry))
    if os.path.isdir(entry):
        return _tars_in(Path(entry))
    if os.path.exists(entry):  # a file of that very name comes before a pattern
        return [entry]
    shards = list(expand_braces(entry))
    if shards == [entry] and not entry.lower().endswith(".tar"):
        raise DataError(
            f"there is no such folder: {entry}; expected a folder of .tar files, a pattern or URLs in "
            "dataset.options.path"
        )
    return shards


def _tars_in(folder: Path) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}; check its permissions") from error
    check_finished(folder)
    tars = [str(folder / name) for name in names if name.lower().endswith(".tar")]
    if not tars:
        listed = ", ".join(names[:5]) or "nothing"
        raise DataError(
            f"no shards in {folder}: expected files ending in .tar directly in it, found {listed}"
            f"{', …' if len(names) > 5 else ''}; compressed archives (.tar.gz) must be unpacked to .tar once"
        )
    return tars


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield what a pattern stands for: {0000..0127} for numbers of that width, {a,b} for words; the last runs fastest.

    Raises DataError above a million.
    """
    pieces = _BRACES.split(pattern)
    choices = [[piece] if place % 2 == 0 else _choices(piece, pattern) for place, piece in enumerate(pieces)]
    total = 1
    for choice in choices:
        total *= len(choice)
    _check_number(total, pattern)
    return map("".join, itertools.product(*choices))


def _choices(inner: str, pattern: str) -> Sequence[str]:
    numbers = _RANGE.fullmatch(inner)
    if numbers is None:
        return inner.split(",") if "," in inner else ["{" + inner + "}"]
    first, last = map(int, numbers.groups())
    if first > last:
        raise DataError(f"{pattern}: expected the smaller number first in {{{inner}}}")
    _check_number(last - first + 1, pattern)
    padded = any(text.startswith("0") and len(text) > 1 for text in numbers.groups())
    width = max(map(len, numbers.groups())) if padded else 0
    return [f"{number:0{width}}" for number in range(first, last + 1)]


def _check_number(count: int, pattern: str) -> None:
    if count > _MOST_SHARDS:
        raise DataError(f"{printable(pattern)}: expected at most {_MOST_SHARDS} shards, got {count}")


def _identity(shard: str) -> str:
    return shard if is_remote(shard) else os.path.realpath(shard)
