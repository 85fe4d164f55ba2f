"""Shards that are damaged, hostile or something else: named, used as far as they can be read, never trusted."""

from __future__ import annotations

import gzip
import logging
import os
import tarfile
import zlib
from pathlib import Path

import pytest
from shard_files import describe, number_of, numbered, png, write_numbered, write_shard

from dfm_core.errors import DataError, UnreadableSampleError
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.training.data import BatchStream
from dfm_plugins.datasets import labels
from dfm_plugins.datasets.specs import WebDatasetOptions
from dfm_plugins.datasets.webdataset import WebDataset


def shards(path: Path, **more: object) -> WebDataset:
    options = WebDatasetOptions(path=str(path), cache=str(path.parent / "cache"), **more)  # type: ignore[arg-type]
    return WebDataset(options, DatasetFacts((2, 2), "train", 0))


def numbers(dataset: WebDataset) -> list[int]:
    return [number_of(dataset.load(index, 0)["image"]) for index in range(len(dataset))]


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE = [
    ("../../outside.png", png(1)),
    ("/absolute.png", png(2)),
    ("a/../../b.png", png(3)),
    special("link.png", tarfile.SYMTYPE, "/etc/passwd"),
    special("hard.png", tarfile.LNKTYPE, "good.png"),
    special("device.png", tarfile.CHRTYPE),
    special("pipe.png", tarfile.FIFOTYPE),
    ("._good.png", b"of another system"),
    ("noending", b"x"),
    ("__meta__/x.png", png(5)),
    ("good.png", png(6)),
    ("good.png", png(7)),
    special("folder.png", tarfile.DIRTYPE),
    ("only.txt", b"words"),
    ("lonely.cls", b"3"),
]


def test_what_is_no_sample_is_passed_over_counted_and_never_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    write_shard(data / "a.tar", HOSTILE)
    monkeypatch.chdir(data)
    before = set(tmp_path.rglob("*"))
    with caplog.at_level(logging.WARNING, logger="dfm"):
        assert numbers(shards(data)) == [6]
    assert len(caplog.messages) == 1
    for part in (
        "4 links and special files",
        "3 names that lead out of the archive",
        "3 names without a key and an ending",
        "1 repeated names",
        "2 samples without an image or latent",
        "first in",
    ):
        assert part in caplog.messages[0]
    assert {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before} == {"cache"}
    assert not Path("/absolute.png").exists()


def test_keys_that_would_steer_a_terminal_are_printed_harmlessly(tmp_path: Path) -> None:
    dataset = shards(write_shard(tmp_path / "a.tar", [("\x1b[2J\n.png", b"no picture")]))
    with pytest.raises(UnreadableSampleError) as caught:
        dataset.load(0, 0)
    assert str(caught.value).isprintable()
    assert "a.tar: '\\x1b[2J\\n' (.png): it is in no known format" in str(caught.value)


def test_a_shard_cut_anywhere_gives_the_samples_before_the_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_shard(tmp_path / "whole.tar", numbered(range(5))).read_bytes()
    path = tmp_path / "cut.tar"
    seen = set()
    for cut in range(100, len(whole), 331):
        path.write_bytes(whole[:cut])
        caplog.clear()
        if cut < 512 + len(png(0)):
            with pytest.raises(DataError, match=r"cut\.tar"):
                shards(path, labels=False)
            continue
        with caplog.at_level(logging.WARNING, logger="dfm"):
            found = shards(path, labels=False)
        assert numbers(found) == list(range(len(found)))
        seen.add(len(found))
        assert len(found) == sum(cut >= 2048 * number + 512 + len(png(number)) for number in range(5))
        complete = cut >= 5 * 2048 + 512
        assert caplog.messages == [] if complete else ["cut.tar" in caplog.messages[0]]
        if not complete:
            assert f"its first {len(found)} samples are used" in caplog.messages[0]
    assert seen == {1, 2, 3, 4, 5}


def test_a_damaged_header_ends_the_shard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_shard(tmp_path / "a.tar", numbered(range(5)))
    content = bytearray(path.read_bytes())
    content[2 * 2048 + 5] ^= 0xFF
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="dfm"):
        assert numbers(shards(path)) == [0, 1]
    assert f"damaged or cut off at byte {2 * 2048} of {len(content)}; its first 2 samples are used" in caplog.text


def test_where_the_numbers_are_known_missing_samples_are_counted_as_unreadable(tmp_path: Path) -> None:
    first, _ = write_numbered(tmp_path / "data", [20, 20])
    describe(tmp_path / "data", {"shards-0000.tar": 20, "shards-0001.tar": 20}, classes=["a", "b", "c"])
    first.write_bytes(first.read_bytes()[: 17 * 2048])
    dataset = shards(tmp_path / "data")
    assert dataset.shard_lengths() == (20, 20), "the order stays what it is"
    with pytest.raises(UnreadableSampleError, match=r"0000\.tar: sample 18 of 20 is missing, it is damaged or cut off"):
        dataset.load(17, 0)
    stream = BatchStream(dataset, 40, seed=0, warn=lambda message: None)
    assert next(stream.batches())["image"].shape[0] == 40
    assert len(stream.unreadable) == 3


OTHER_FILES = {
    "empty": (b"", "is no tar archive: it is empty"),
    "page": (b"<!DOCTYPE html><HTML>log in</HTML>" * 40, "is no tar archive: it is a web page"),
    "gzip": (gzip.compress(bytes(2000)), "is no tar archive: it is compressed with gzip; unpack it to .tar"),
    "noise": (bytes(range(256)) * 9, "is no tar archive: "),
    "short": (b"abc", "is no tar archive: "),
    "zeros": (bytes(10240), "holds no samples: expected images .* found no files at all"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_files_are_named_with_what_they_are(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.tar"
    path.write_bytes(OTHER_FILES[kind][0])
    with pytest.raises(DataError, match=rf"shard .*{kind}\.tar {OTHER_FILES[kind][1]}"):
        shards(path)


def test_a_shard_without_images_says_what_it_holds(tmp_path: Path) -> None:
    path = write_shard(
        tmp_path / "a.tar", [("1.txt", b"a"), ("2.txt", b"b"), ("2.cls", b"1"), special("l", tarfile.SYMTYPE)]
    )
    with pytest.raises(
        DataError,
        match=r"a\.tar holds no samples: expected images \(KEY\.jpg\) or latents .*found 2 ending in \.txt, 1 links",
    ):
        shards(path)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header of any size, also of a negative one."""
    info = tarfile.TarInfo(name)
    info.type = kind
    content = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        content[124:136] = (256**12 + size).to_bytes(12, "big")
    else:
        content[124:136] = f"{size:011o}\0".encode()
    content[148:156] = b" " * 8
    content[148:156] = f"{sum(content):06o}\0 ".encode()
    return bytes(content)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "hostile",
    [
        header("back.png", -512),
        header("back.png", -(1 << 40)),
        header("x", -1024, tarfile.XHDTYPE),
        header("x", -1024, tarfile.GNUTYPE_LONGNAME),
        header("x", 8 << 30, tarfile.XHDTYPE),
        header("x", 0, tarfile.GNUTYPE_LONGNAME) * 5000,
        header("x", 512, tarfile.XHDTYPE) + b"99999999999 path=a\n".ljust(512, b"\0"),
        header("x", 512, tarfile.GNUTYPE_SPARSE) + bytes(512),
    ],
    ids=["back", "far back", "pax back", "name back", "huge pax", "names for ever", "pax record", "sparse"],
)
def test_hostile_headers_end_the_shard(tmp_path: Path, hostile: bytes) -> None:
    start = write_shard(tmp_path / "a.tar", numbered(range(3), 0)).read_bytes()[: 3 * 1024]
    path = tmp_path / "b.tar"
    path.write_bytes(start + hostile + bytes(10240))
    assert numbers(shards(path)) == [0, 1, 2]
    path.write_bytes(hostile + bytes(10240))
    with pytest.raises(DataError, match=r"b\.tar (is no tar archive|holds no samples)"):
        shards(path)


def test_labels_that_are_texts_are_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [(f"{i}.png", png(i)) for i in range(5)] + [(f"{i}.cls", f"caption {i}".encode()) for i in range(5)]
    path = write_shard(tmp_path / "a.tar", members)
    assert len(shards(path).classes) == 5
    monkeypatch.setattr(labels, "MOST_CLASSES", 4)
    with pytest.raises(DataError, match=r"5 different labels, expected at most 4 classes.*labels=false"):
        shards(path)
    long = write_shard(tmp_path / "b.tar", [("0.png", png(0)), ("0.cls", b"x" * 500)])
    assert shards(long).classes == (), "half a page is no label"


def test_a_shard_that_goes_away_is_named(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", numbered(range(2)))
    dataset = shards(path)
    path.unlink()
    with pytest.raises(DataError, match=r"shard .*a\.tar is missing"):
        dataset.load(0, 0)


def bomb(width: int, height: int) -> bytes:
    """A small PNG that promises a huge picture."""
    content = bytearray(png(0))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


def postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(%pipe%touch ran) (w) file\n"


def test_unreadable_samples_name_shard_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {
        "cut": (png(0, (40, 40))[:-30], "."),
        "empty": (b"", "it is in no known format"),
        "words": (b"not a picture", "it is in no known format"),
        "bomb": (bomb(60_000, 60_000), "decompression bomb"),
        "postscript": (postscript(), "it is in no known format"),
    }
    names = list(contents)
    path = write_shard(tmp_path / "a.tar", [*numbered(range(60), 0), *((f"{n}.jpg", contents[n][0]) for n in names)])
    dataset = shards(path)
    for index, name in enumerate(names, start=60):
        with pytest.raises(UnreadableSampleError, match=rf"a\.tar: '{name}' \(\.jpg\): .*{contents[name][1]}"):
            dataset.load(index, 0)
    messages: list[str] = []
    stream = BatchStream(dataset, 65, seed=0, warn=messages.append)
    assert len(next(stream.batches())["image"]) == 65
    assert len(messages) == len(stream.unreadable) == 5
    assert set(os.listdir(tmp_path)) == {"cache", "a.tar"}


def test_enormous_members_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [*numbered(range(2), 0), ("big.png", b"x")])
    content = path.read_bytes()
    at = content.index(b"big.png")
    header = tarfile.TarInfo("big.png")
    header.size = (1 << 30) + 1
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(header.tobuf())
        file.truncate(at + 512 + header.size)  # a hole: nothing is stored
    dataset = shards(path)
    with pytest.raises(UnreadableSampleError, match=r"a\.tar: 'big' \(\.png\) has 1073741825 bytes, expected at most"):
        dataset.load(2, 0)


def test_a_shard_that_becomes_shorter_is_unreadable_there(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", numbered(range(4), 0))
    dataset = shards(path)
    dataset.load(0, 0)
    with open(path, "r+b") as file:
        file.truncate(1500)
    with pytest.raises(UnreadableSampleError, match="the shard has become shorter"):
        dataset.load(3, 0)
