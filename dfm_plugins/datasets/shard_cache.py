"""A folder for what is kept of shards: their indexes, and whole copies of those that lie behind a URL."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dfm_core.errors import DataError
from dfm_core.files import put_in_place
from dfm_plugins.datasets.shard_sources import base_name, is_remote, printable

ATTEMPTS = 4
TIMEOUT = 60.0
_ABSENT = (403, 404, 410)
_WORTH_ANOTHER_TRY = (408, 429)
_PIECE = 1 << 20


class ShardCache:
    """Files under names made from the addresses of their shards, complete or absent, shared by any number of processes.

    A copy is removed when all copies together exceed `limit` bytes, least recently used first; the `keep` newest stay.
    """

    def __init__(self, folder: str | None, limit: float | None, keep: int) -> None:
        self.folder = default_folder() if folder is None else Path(folder)
        self._copies, self._indexes, self._locks = (self.folder / name for name in ("copies", "indexes", "locks"))
        self._limit = limit
        self._keep = keep
        try:
            for place in (self._copies, self._indexes, self._locks):
                place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"cannot make the folder {self.folder}: {error.strerror}; choose another with dataset.options.cache"
            ) from error

    def index_path(self, shard: str) -> Path:
        """Where the index of a shard is kept."""
        return self._indexes / f"{_name(shard)}.index"

    def copy(self, shard: str) -> Path | None:
        """Where a shard lies on this machine now; None where it would have to be fetched."""
        path = self._place(shard)
        return path if path.exists() else None

    def path(self, shard: str) -> Path:
        """Return where a shard lies on this machine, fetching it where it is remote and not there."""
        path = self._place(shard)
        if not self.touch(shard):
            with self.locked(path):
                if not _touch(path):
                    self._fetch(shard, path)
                    _touch(path)  # the clock of file systems lags behind
                    self._evict()
        return path

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """Let one process at a time make `path`; what a killed one has left of it goes first."""
        try:
            file = open(self._locks / path.name, "ab")  # noqa: SIM115
        except OSError as error:
            raise DataError(
                f"cannot write into {self.folder}: {error.strerror}; choose another folder with dataset.options.cache"
            ) from error
        with file:
            _lock(file)
            for stale in path.parent.glob(f"{path.name}.*.part"):
                with suppress(OSError):
                    stale.unlink()
            yield

    def touch(self, shard: str) -> bool:
        """Note that a copy is used now, so that it stays; False where there is none."""
        return not is_remote(shard) or _touch(self._place(shard))

    def _place(self, shard: str) -> Path:
        return self._copies / f"{_name(shard)}.tar" if is_remote(shard) else Path(shard)

    def _fetch(self, shard: str, path: Path) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with open(temporary, "wb") as file:
                download(shard, file)
            put_in_place(temporary, path)
        except OSError as error:
            raise DataError(
                f"cannot keep {printable(shard)} in {self.folder}: {error.strerror or error}; free space, "
                "lower dataset.options.cache_gigabytes, or choose another folder with dataset.options.cache"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _evict(self) -> None:
        if self._limit is None:
            return
        copies = []
        for path in self._copies.glob(f"*-{'[0-9a-f]' * 16}.tar"):
            try:
                state = path.stat()
            except FileNotFoundError:  # another process was quicker
                continue
            copies.append((state.st_atime_ns, state.st_size, path))
        copies.sort(reverse=True)
        total = 0
        for number, (_, size, path) in enumerate(copies):
            total += size
            if total > self._limit and number >= self._keep:
                path.unlink(missing_ok=True)


def default_folder() -> Path:
    """Folder `dfm/shards` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dfm" / "shards"


class AbsentError(DataError):
    """The server says that there is no such file, or none for us."""


def download(url: str, file: IO[bytes], most: int | None = None) -> None:
    """Fetch a URL whole into an open file, trying again where the connection fails.

    most: bytes that are accepted. Raises DataError where it stays away, arrives incomplete or is larger, AbsentError
    where there is none, OSError where the file cannot be written.
    """
    for attempt in range(ATTEMPTS):
        file.seek(0)
        file.truncate()
        try:
            return _download_once(url, file, most)
        except urllib.error.HTTPError as error:
            problem = f"the server answers {error.code} {error.reason}"
            if error.code in _ABSENT:
                raise AbsentError(f"cannot fetch {printable(url)}: {problem}") from error
            if error.code < 500 and error.code not in _WORTH_ANOTHER_TRY:
                break
        except _Interrupted as error:
            problem = str(error)
        if attempt < ATTEMPTS - 1:
            time.sleep(0.5 * 4**attempt)
    raise DataError(f"cannot fetch {printable(url)}: {problem}; check the address and the network, then go on")


class _Interrupted(Exception):
    """A connection that failed or ended early."""


def _download_once(url: str, file: IO[bytes], most: int | None) -> None:
    with _open(url) as response:
        expected = response.headers.get("Content-Length")
        while piece := _read(response):
            file.write(piece)
            if most is not None and file.tell() > most:
                raise DataError(f"{printable(url)}: expected at most {most} bytes, got more")
    if expected is not None and int(expected) != file.tell():
        raise _Interrupted(f"{file.tell()} of {expected} bytes arrived")


def _open(url: str) -> Any:
    try:
        return urllib.request.urlopen(url, timeout=TIMEOUT)
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, FileNotFoundError):
            raise AbsentError(f"cannot fetch {printable(url)}: there is no such file") from error
        raise _Interrupted(str(error.reason)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Interrupted(str(error) or type(error).__name__) from error


def _read(response: IO[bytes]) -> bytes:
    try:
        return response.read(_PIECE)
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(str(error) or type(error).__name__) from error


def _touch(path: Path) -> bool:
    """Note that a copy is used now; False where there is none. Its time of change stays: the index holds for it."""
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _name(shard: str) -> str:
    """File name that no other shard has, readable and harmless whatever the address holds."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", base_name(shard).removesuffix(".tar")).strip("-")[:80]
    return f"{stem or 'shard'}-{hashlib.blake2b(shard.encode(), digest_size=8).hexdigest()}"


def _lock(file: IO[bytes]) -> None:
    """Wait for the lock on an open file, which ends with the process at the latest; none on Windows."""
    try:
        import fcntl
    except ImportError:  # two processes may then make the same file; each makes it whole
        return
    fcntl.flock(file, fcntl.LOCK_EX)
