"""One pass over the headers of a tar shard: which samples it holds, and where.

Nothing is ever extracted: a member's name serves only as the key of a sample. Naming is WebDataset's: files that agree
up to the first dot of their last part are one sample, the rest is the ending (`a/0001.jpg`, `a/0001.cls`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from dfm_core.errors import DataError
from dfm_core.images import image_endings
from dfm_plugins.datasets.tar_index import NO_LABEL, Naming, ShardIndex

LATENT_ENDINGS = ("latent.npy", "latent.safetensors", "npy", "safetensors")

_BLOCK = 512
_LARGEST_LABEL = 1 << 20
_LONGEST_LABEL = 200
_KEY_AND_ENDING = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_OF_THE_ARCHIVE = re.compile(r"__[^/]*__($|/)")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def scan_shard(shard: Path, name: str, naming: Naming) -> ShardIndex:
    """Read all headers of a shard. name: for messages.

    What stands before a damaged place is used, and `damage` says so. Raises DataError for what is no tar archive or
    holds no samples, FileNotFoundError where there is no file.
    """
    try:
        with open(shard, "rb") as file:
            return _Scan(file, name, naming).index()
    except FileNotFoundError:  # a copy that another process has removed
        raise
    except OSError as error:
        raise DataError(f"cannot read shard {name}: {error.strerror or error}") from error


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into its key and its ending in lower case; None for hidden files and those without one."""
    found = _KEY_AND_ENDING.fullmatch(name)
    return None if found is None or _OF_THE_ARCHIVE.match(name) else (found[1], found[2].lower())


def is_media(ending: str) -> bool:
    """Whether files of this ending are images or latents."""
    return ending in LATENT_ENDINGS or f".{ending.rpartition('.')[2]}" in image_endings()


class NoArchiveError(DataError):
    """A file that is no tar archive."""


class _Member(tarfile.TarInfo):
    def _block(self, count: int) -> int:
        # Older Pythons go back on a negative size, and so round in circles (CVE-2025-8194).
        if count < 0:
            raise tarfile.ReadError("negative size")
        return int(super()._block(count))  # type: ignore[misc]


class _Sample:
    """What a scan knows of a sample: (offset, size) of each image or latent by ending, and the texts of its labels."""

    __slots__ = ("labels", "media")

    def __init__(self) -> None:
        self.media: dict[str, tuple[int, int]] = {}
        self.labels: dict[str, str | None] | None = None


class _Scan:
    """One pass over the headers of a shard."""

    def __init__(self, file: IO[bytes], name: str, naming: Naming) -> None:
        self.file = file
        self.name = name
        self.media = None if naming.media is None else naming.media.lower().lstrip(".")
        label = ("cls", "json") if naming.label is None else (naming.label.lower().lstrip("."),)
        self.labels = label if naming.labels else ()
        self.label_key = naming.label_key
        self.total = os.fstat(file.fileno()).st_size
        self.samples: dict[str, _Sample] = {}
        self.others: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.damage = ""

    def index(self) -> ShardIndex:
        """Return where the samples lie."""
        for key, ending, offset, size in self._files():
            sample = self.samples.setdefault(key, _Sample())
            if ending == self.media or (self.media is None and is_media(ending)):
                self._put(sample.media, ending, (offset, size))
            elif ending in self.labels:
                sample.labels = sample.labels or {}
                self._put(sample.labels, ending, self._label(ending, offset, size))
            else:
                self.others[ending] += 1
        return self._collect()

    def _put(self, place: dict[str, Any], ending: str, value: object) -> None:
        if ending in place:
            self.skipped["repeated names"] += 1
        else:
            place[ending] = value

    def _files(self) -> Iterator[tuple[str, str, int, int]]:
        """Yield (key, ending, offset, size) of every plain file with a name that says what it is."""
        for member in self._members():
            if member.offset_data + member.size > self.total:
                self.damage = f"it is cut off at byte {self.total}, inside {member.name!r}"
                return
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                self.skipped["links and special files"] += 1
            elif member.name.startswith("/") or ".." in member.name.split("/"):
                self.skipped["names that lead out of the archive"] += 1
            elif (found := split_name(member.name)) is None:
                self.skipped["names without a key and an ending"] += 1
            else:
                yield *found, member.offset_data, member.size

    def _members(self) -> Iterator[tarfile.TarInfo]:
        try:
            archive = tarfile.TarFile(fileobj=self.file, tarinfo=_Member)
        except Exception as error:  # broken headers make tarfile raise anything
            raise NoArchiveError(f"shard {self.name} is no tar archive: {_magic(self.file) or error}") from error
        try:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]
                yield member
        except Exception as error:
            self.damage = f"it is damaged at byte {archive.offset} of {self.total} ({error})"
            return
        # At a header that it cannot read tarfile ends without a word, as at the end mark.
        self.file.seek(archive.offset)
        if self.file.read(_BLOCK) != bytes(_BLOCK):
            self.damage = f"it is damaged or cut off at byte {archive.offset} of {self.total}"

    def _label(self, ending: str, offset: int, size: int) -> str | None:
        if size > _LARGEST_LABEL:
            return None
        self.file.seek(offset)
        return label_text(self.file.read(size), self.label_key if ending.endswith("json") else None)

    def _collect(self) -> ShardIndex:
        rows: list[tuple[int, int, int, int]] = []
        keys: list[bytes] = []
        endings: dict[str, int] = {}
        labels: dict[str, int] = {}
        for key, sample in self.samples.items():
            if not sample.media:
                self.skipped["samples without an image or latent"] += 1
                continue
            ending, place = self._only(key, sample.media)
            texts = sample.labels or {}
            label = next((texts[name] for name in self.labels if name in texts), None)
            number = NO_LABEL if label is None else labels.setdefault(label, len(labels))
            rows.append((*place, endings.setdefault(ending, len(endings)), number))
            keys.append(key.encode(errors="replace"))
        if not rows:
            raise DataError(self._nothing())
        offsets, sizes, ending_numbers, label_numbers = np.array(rows, dtype=np.int64).T.copy()
        key_ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
        digest = hashlib.blake2b(repr((tuple(endings), tuple(labels))).encode(), digest_size=16)
        for array in (offsets, sizes, ending_numbers, label_numbers, key_ends):
            digest.update(array.tobytes())
        digest.update(b"".join(keys))
        return ShardIndex(
            offsets,
            sizes,
            ending_numbers,
            label_numbers,
            keys=np.frombuffer(b"".join(keys), dtype=np.uint8),
            key_ends=key_ends,
            ending_names=tuple(endings),
            label_names=tuple(labels),
            skipped=dict(self.skipped),
            damage=self.damage,
            fingerprint=digest.hexdigest(),
        )

    def _only(self, key: str, media: dict[str, tuple[int, int]]) -> tuple[str, tuple[int, int]]:
        if len(media) > 1:
            raise DataError(
                f"shard {self.name}: sample {key!r} has {' and '.join(media)}, expected one image or latent; "
                f"choose one: --set dataset.options.media={next(iter(media))}"
            )
        return next(iter(media.items()))

    def _nothing(self) -> str:
        wanted = f"KEY.{self.media}" if self.media else "images (KEY.jpg) or latents (KEY.latent.npy)"
        found = [f"{count} ending in .{ending}" for ending, count in self.others.most_common(5)]
        found += [f"{count} {reason}" for reason, count in self.skipped.items() if reason.startswith(("link", "name"))]
        found += [self.damage] if self.damage else []
        return f"shard {self.name} holds no samples: expected {wanted}, found {', '.join(found) or 'no files at all'}"


def label_text(content: bytes, key: str | None) -> str | None:
    """Text of a label, whole numbers in their plain form; None for what is none. key: of a JSON object."""
    try:
        text = content.decode()
        value = text if key is None else json.loads(text).get(key)
    except (ValueError, AttributeError, RecursionError):
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    if len(text) > _LONGEST_LABEL:
        return None
    return (str(int(text)) if _INTEGER.fullmatch(text) else text) or None


def _magic(file: IO[bytes]) -> str:
    """Say what a file is instead of a tar archive, where that is known."""
    file.seek(0)
    start = file.read(_BLOCK)
    for magic, what in {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}.items():
        if start.startswith(magic):
            return f"it is compressed with {what}; unpack it to .tar, since samples are read by their place in it"
    if not start:
        return "it is empty"
    return "it is a web page" if b"<html" in start.lower() else ""
