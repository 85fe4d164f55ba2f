"""Tar shards: naming, labels, splits, latents, the kept index, and exact resume."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import pickle
import re
import stat
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import describe, npy, number_of, numbered, png, write_numbered, write_shard

from dfm_core.errors import ConfigError, DataError, UnreadableSampleError, UsageError
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.plugins.validation import validate
from dfm_core.training.data import BatchStream
from dfm_plugins.datasets import shard_reader, shard_survey
from dfm_plugins.datasets.folder import Folder
from dfm_plugins.datasets.shard_sources import expand_braces
from dfm_plugins.datasets.specs import FolderOptions, WebDatasetOptions
from dfm_plugins.datasets.tar_scan import split_name
from dfm_plugins.datasets.webdataset import WebDataset


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache / "dfm" / "shards" / "indexes"


def shards(
    path: Path | str | Sequence[str],
    split: str = "train",
    size: tuple[int, ...] = (2, 2),
    seed: int = 0,
    **more: object,
) -> WebDataset:
    given = str(path) if isinstance(path, Path) else path
    options = validate(WebDatasetOptions, {"path": given, **more})
    return WebDataset(options, DatasetFacts(size, split, seed))  # type: ignore[arg-type]


def numbers(dataset: WebDataset) -> list[int]:
    return [number_of(dataset.load(index, 0)["image"]) for index in range(len(dataset))]


def test_samples_follow_each_other_shard_after_shard(tmp_path: Path) -> None:
    write_numbered(tmp_path, [3, 1, 4])
    dataset = shards(tmp_path)
    assert numbers(dataset) == list(range(8))
    assert dataset.shard_lengths() == (3, 1, 4)
    assert dataset.classes == ("0", "1", "2")
    assert [dataset.load(index, 0)["label"] for index in range(8)] == [index % 3 for index in range(8)]
    assert dataset.latents is None
    with pytest.raises(IndexError):
        dataset.load(8, 0)


def test_images_are_read_as_those_of_a_folder(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    from PIL import Image

    members = []
    (tmp_path / "folder").mkdir()
    for index in range(6):
        file = io.BytesIO()
        picture = Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        picture.save(file, ("JPEG", "PNG", "WEBP")[index % 3])
        name = f"{index}.{('jpg', 'png', 'webp')[index % 3]}"
        (tmp_path / "folder" / name).write_bytes(file.getvalue())
        members.append((name, file.getvalue()))
    write_shard(tmp_path / "a.tar", members)
    facts = DatasetFacts((8, 12), "train", 5)
    folder = Folder(FolderOptions(path=str(tmp_path / "folder"), crop="random", flip=True), facts)
    dataset = shards(tmp_path / "a.tar", size=(8, 12), seed=5, crop="random", flip=True)
    assert dataset.classes == ()
    for epoch in (0, 1):
        for index in range(6):
            a, b = folder.load(index, epoch), dataset.load(index, epoch)
            assert set(b) == {"image"}
            assert torch.equal(a["image"], b["image"])  # type: ignore[arg-type]


def test_folders_patterns_lists_and_single_shards(tmp_path: Path) -> None:
    first, second, third = map(str, write_numbered(tmp_path, [2, 2, 2]))
    (tmp_path / "notes.txt").touch()
    assert numbers(shards(f"{tmp_path}/shards-{{0000..0002}}.tar")) == [0, 1, 2, 3, 4, 5]
    assert numbers(shards(f"{tmp_path}/shards-{{0002,0000}}.tar")) == [4, 5, 0, 1]
    assert numbers(shards([third, first])) == [4, 5, 0, 1]
    assert numbers(shards(second)) == [2, 3]
    assert WebDatasetOptions(path="here/{a,b}.tar").path == str(Path("here/{a,b}.tar").absolute())


def test_what_is_no_shard_is_refused_with_a_reason(tmp_path: Path) -> None:
    first = write_numbered(tmp_path / "data", [2])[0]
    with pytest.raises(DataError, match=r"1 of 2 shards are missing, first .*shards-0001\.tar"):
        shards(f"{tmp_path}/data/shards-{{0000..0001}}.tar")
    with pytest.raises(DataError, match="1 shards are given twice"):
        shards([str(first), str(tmp_path / "data")])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.tar.gz").touch()
    with pytest.raises(DataError, match=r"no shards in .*found a\.tar\.gz; compressed archives .* must be unpacked"):
        shards(tmp_path / "empty")
    with pytest.raises(DataError, match=r"there is no such folder: .*nowhere; expected a folder of \.tar files"):
        shards(tmp_path / "nowhere")
    with pytest.raises(DataError, match="empty list"):
        shards([])
    with pytest.raises(UsageError, match="height × width"):
        shards(first, size=(2, 2, 2))


@pytest.mark.parametrize("address", ["pipe:curl -s http://host/a.tar", "PIPE:cat x", ["ok.tar", "pipe:rm -rf /"]])
def test_a_shell_is_never_started(address: object) -> None:
    with pytest.raises(ConfigError, match="would run a command in a shell, which data must never do"):
        validate(WebDatasetOptions, {"path": address})


def test_other_protocols_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a path or a URL of http, https or file, got s3://bucket/a\.tar"):
        validate(WebDatasetOptions, {"path": "s3://bucket/a.tar"})
    with pytest.raises(ConfigError, match="expected one of them, got both"):
        validate(WebDatasetOptions, {"path": "a", "validation_path": "b", "validation_fraction": 0.1})


def test_braces_stand_for_what_they_stand_for_elsewhere() -> None:
    library = pytest.importorskip("braceexpand").braceexpand
    for pattern in ("a", "{00..12}.tar", "x-{8..11}-{a,b}.tar", "{a,bc,}d", "{099..101}", "{0..3}{5..6}"):
        assert list(expand_braces(pattern)) == list(library(pattern)), pattern
    assert list(expand_braces("{x}.tar")) == ["{x}.tar"]
    with pytest.raises(DataError, match="at most 1000000 shards, got 10000000000"):
        expand_braces("{0..9999999999}.tar")
    with pytest.raises(DataError, match="at most"):
        expand_braces("{0..9999}{0..9999}.tar")
    with pytest.raises(DataError, match="smaller number first"):
        expand_braces("{9..1}.tar")


NAMES = st.text("ab.0_-/", min_size=1, max_size=12)
OF_THE_ARCHIVE = re.compile(r"__[^/]*__($|/)")
"""Names of metadata; the library's reader passes over those at the top, ours over folders of them, too."""


@settings(max_examples=300, deadline=None)
@given(NAMES)
def test_keys_and_endings_are_those_of_the_library(name: str) -> None:
    library = pytest.importorskip("webdataset.tariterators").base_plus_ext
    found = split_name(name)
    if name.rpartition("/")[2].startswith("."):
        assert found is None, "hidden files are none of ours"
    elif OF_THE_ARCHIVE.match(name):
        assert found is None, "metadata are none of ours"
    elif not name.endswith("."):
        assert (found or (None, None)) == library(name)


def test_shards_of_the_library_are_read_and_ours_are_read_by_it(tmp_path: Path) -> None:
    library = pytest.importorskip("webdataset")
    with library.ShardWriter(f"file:{tmp_path}/w-%03d.tar", maxcount=4, verbose=0) as writer:
        for number in range(10):
            writer.write({"__key__": f"{number:06}", "png": png(number), "cls": number % 2})
    dataset = shards(tmp_path)
    assert dataset.shard_lengths() == (4, 4, 2)
    assert numbers(dataset) == list(range(10))
    names = sorted(map(str, tmp_path.glob("*.tar")))
    theirs = list(library.WebDataset(names, shardshuffle=False, empty_check=False))
    for index, sample in enumerate(theirs):
        assert int(sample["cls"]) == dataset.load(index, 0)["label"]
        assert sample["png"] == png(number_of(dataset.load(index, 0)["image"]))


def test_labels_are_numbers_words_or_part_of_json(tmp_path: Path) -> None:
    members = [
        member
        for index, word in enumerate(("zebra", "ant", "zebra"))
        for member in (
            (f"{index}.png", png(index)),
            (f"{index}.txt", word.encode()),
            (f"{index}.json", json.dumps({"label": index, "kind": {"deep": 1}, "animal": word}).encode()),
        )
    ]
    path = write_shard(tmp_path / "a.tar", members)

    def labels(**options: object) -> tuple[tuple[str, ...], list[object]]:
        dataset = shards(path, **options)  # type: ignore[arg-type]
        return dataset.classes, [dataset.load(index, 0).get("label") for index in range(len(dataset))]

    assert labels() == (("0", "1", "2"), [0, 1, 2])
    assert labels(label_key="animal") == (("ant", "zebra"), [1, 0, 1])
    assert labels(label="txt") == (("ant", "zebra"), [1, 0, 1])
    assert labels(label="txt", classes=["zebra", "moth", "ant"]) == (("zebra", "moth", "ant"), [0, 2, 0])
    assert labels(classes=["a", "b", "c", "d"]) == (("a", "b", "c", "d"), [0, 1, 2])
    assert labels(labels=False) == ((), [None] * 3)
    assert labels(label_key="kind") == ((), [None] * 3)


def test_labels_outside_the_classes_are_named(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", numbered(range(4)))
    with pytest.raises(DataError, match=r"a\.tar: label '2': expected 0…1 or the name of a class"):
        shards(path, classes=["x", "y"])
    with pytest.raises(DataError, match="got 'x' twice"):
        shards(path, classes=["x", "x"])
    words = write_shard(tmp_path / "b.tar", [("0.png", png(0)), ("0.cls", b"zebre")])
    with pytest.raises(DataError, match=r"label 'zebre': expected .* Did you mean 'zebra'\?"):
        shards(words, classes=["ant", "zebra"])
    with pytest.raises(DataError, match="classes are given and no sample has a label"):
        shards(write_shard(tmp_path / "c.tar", numbered(range(2), classes=0)), classes=["x"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [((b"1", b"cat"), "numbers .1. and words .'cat'."), ((b"0", b"-1"), "from -1 to 0"), ((b"123456", b"0"), "123456")],
)
def test_labels_that_name_no_classes_ask_for_the_option(tmp_path: Path, labels: list[bytes], message: str) -> None:
    members = [member for i, label in enumerate(labels) for member in ((f"{i}.png", png(i)), (f"{i}.cls", label))]
    path = write_shard(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=message):
        shards(path)


def test_a_sample_without_its_label_is_skipped_and_counted(tmp_path: Path) -> None:
    members = [*numbered(range(40)), ("x.png", png(40)), ("y.png", png(41)), ("y.cls", b"\xff\xfe")]
    dataset = shards(write_shard(tmp_path / "a.tar", members))
    for index, key in ((40, "x"), (41, "y")):
        with pytest.raises(UnreadableSampleError, match=rf"a\.tar: '{key}' \(\.png\): has no label"):
            dataset.load(index, 0)


def test_several_images_in_a_sample_ask_for_one(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", [("0.jpg", png(1)), ("0.Mask.PNG", png(2)), ("1.jpg", png(3))])
    with pytest.raises(DataError, match=r"sample '0' has jpg and mask\.png.*dataset\.options\.media=jpg"):
        shards(path)
    assert numbers(shards(path, media="jpg")) == [1, 3]
    assert numbers(shards(path, media=".mask.png")) == [2]
    with pytest.raises(DataError, match=r"holds no samples: expected KEY\.webp, found 2 ending in \.jpg"):
        shards(path, media="webp")


def test_own_shards_for_validation(tmp_path: Path) -> None:
    write_numbered(tmp_path / "train", [4, 4])
    write_shard(tmp_path / "validation.tar", numbered(range(8, 10), classes=2))
    more = {"validation_path": str(tmp_path / "validation.tar"), "flip": True}
    assert numbers(shards(tmp_path / "train", **more)) == list(range(8))  # type: ignore[arg-type]
    validation = shards(tmp_path / "train", "validation", **more)  # type: ignore[arg-type]
    assert numbers(validation) == [8, 9]
    assert validation.classes == ("0", "1", "2"), "the classes are those of the training data"
    with pytest.raises(DataError, match="1 shards are in path and in validation_path"):
        shards(tmp_path / "train", validation_path=str(tmp_path / "train" / "shards-0001.tar"))


def test_a_share_for_validation_goes_by_the_key(tmp_path: Path) -> None:
    write_numbered(tmp_path, [60, 60, 80])

    def split(name: str, seed: int = 0) -> set[int]:
        return set(numbers(shards(tmp_path, name, seed=seed, validation_fraction=0.2)))

    train, validation = split("train"), split("validation")
    assert not train & validation
    assert train | validation == set(range(200))
    assert 20 <= len(validation) <= 60
    assert split("validation", seed=1) != validation
    write_shard(tmp_path / "shards-0000a.tar", numbered(range(200, 230)))
    assert train <= split("train")
    assert validation <= split("validation")
    assert len(shards(tmp_path, "validation")) == 0
    with pytest.raises(DataError, match="all samples of 1 shards fell into the validation split"):
        shards(write_shard(tmp_path / "one.tar", numbered([1])), validation_fraction=0.999999)


def latent_members(arrays: Sequence[np.ndarray], classes: int = 0) -> list[tuple[str, bytes]]:
    labels = [(f"{i}.cls", str(i % classes).encode()) for i in range(len(arrays) if classes else 0)]
    return [(f"{i}.latent.npy", npy(array)) for i, array in enumerate(arrays)] + labels


LATENTS = {"autoencoder": "vae-1234", "latent_shape": [4, 2, 3], "size": [16, 24], "classes": ["a", "b"]}


def test_latents_are_read_with_what_dataset_json_says(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(i).normal(size=(4, 2, 3)).astype((np.float16, np.float32)[i % 2]) for i in range(3)]
    write_shard(tmp_path / "a.tar", latent_members(arrays, classes=2))
    content = safetensors.numpy.save({"latent": arrays[0], "logvar": arrays[1]})
    write_shard(tmp_path / "b.tar", [("x.safetensors", content), ("x.cls", b"1")])
    describe(tmp_path, {"a.tar": 3, "b.tar": 1}, **LATENTS)
    dataset = shards(tmp_path, size=(16, 24))
    assert dataset.latents is not None
    assert (dataset.latents.autoencoder, dataset.latents.shape) == ("vae-1234", (4, 2, 3))
    assert (dataset.classes, dataset.channels) == (("a", "b"), 3)
    for index, array in enumerate([*arrays, arrays[0]]):
        sample = dataset.load(index, 0)
        assert torch.equal(sample["latent"], torch.from_numpy(array.astype(np.float32)))  # type: ignore[arg-type]
        assert sample["label"] == (index % 2 if index < 3 else 1)
    with pytest.raises(UsageError, match="neither mirrored nor cropped"):
        shards(tmp_path, flip=True)


@pytest.mark.parametrize("given", [".", "{a,b}.tar", "a.tar"])
def test_an_encoding_that_is_not_finished_is_called_that(given: str, tmp_path: Path) -> None:
    (tmp_path / "encoding.json").write_text("{}")
    if given == ".":
        with pytest.raises(DataError, match="not finished"):
            shards(tmp_path)
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, latent_members([np.zeros((1, 2, 2), np.float32)]))
    expected = r"is not finished: expected dataset\.json .* run the same `dfm encode` again"
    with pytest.raises(DataError, match=expected):
        shards(str(tmp_path / given))


def test_latents_need_to_say_who_made_them(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", latent_members([np.zeros((1, 2, 2), np.float32)]))
    with pytest.raises(DataError, match=r"a\.tar holds latents, and no dataset\.json beside it says which autoencoder"):
        shards(tmp_path)
    describe(tmp_path, {"a.tar": 1}, autoencoder="vae")
    with pytest.raises(DataError, match="latent_shape"):
        shards(tmp_path)


def test_latents_that_are_not_what_they_should_be_are_named(tmp_path: Path) -> None:
    good = np.zeros((1, 2, 2), np.float32)
    bomb = npy(good).replace(b"(1, 2, 2)", b"(9, 9**9)")
    huge = npy(good).replace(b"(1, 2, 2), }", b"(99999, 99999), }")
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    wrong = {
        "shape": npy(np.zeros((2, 2, 2), np.float32)),
        "type": npy(np.zeros((1, 2, 2), np.float64)),
        "nan": npy(np.full((1, 2, 2), np.nan, np.float32)),
        "cut": npy(good)[:-3],
        "bomb": bomb,
        "huge": huge,
        "pickle": pickled.getvalue(),
        "text": b"hello",
    }
    members = [(f"{name}.latent.npy", content) for name, content in wrong.items()]
    write_shard(tmp_path / "a.tar", [*members, ("x.safetensors", b"12345678"), ("y.png", png(1)), ("z.npy", npy(good))])
    describe(tmp_path, {"a.tar": len(wrong) + 3}, autoencoder="vae", latent_shape=[1, 2, 2])
    dataset = shards(tmp_path)
    for index, name in enumerate([*wrong, "x"]):
        with pytest.raises(UnreadableSampleError, match=rf"cannot read latent .*a\.tar: '{name}'"):
            dataset.load(index, 0)
    with pytest.raises(UnreadableSampleError, match=r"'y' \(\.png\): expected a latent"):
        dataset.load(len(wrong) + 1, 0)
    assert torch.equal(dataset.load(len(wrong) + 2, 0)["latent"], torch.zeros(1, 2, 2))  # type: ignore[arg-type]


def test_dataset_json_must_fit_its_shards(tmp_path: Path) -> None:
    write_numbered(tmp_path, [3, 2])
    counts = {"shards-0000.tar": 3, "shards-0001.tar": 2}
    describe(tmp_path, counts, classes=["x", "y", "z"])
    assert shards(tmp_path).classes == ("x", "y", "z")
    describe(tmp_path, counts)
    assert shards(tmp_path).classes == (), "a description without classes is of data without labels"
    describe(tmp_path, {"shards-0000.tar": 3})
    with pytest.raises(DataError, match=r"lists 1 shards and shards-0001\.tar is none of them"):
        shards(tmp_path)
    describe(tmp_path, counts | {"shards-0000.tar": 1})
    with pytest.raises(DataError, match=r"says that shard .*0000\.tar has 1 samples, it has 3"):
        shards(tmp_path)
    describe(tmp_path, counts | {"shards-0000.tar": -1})
    with pytest.raises(DataError, match=r"dataset\.json: shards\.shards-0000\.tar: .*greater than or equal to 0"):
        shards(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: Invalid JSON"):
        shards(tmp_path)


def test_descriptions_of_several_folders_must_agree(tmp_path: Path) -> None:
    for name, classes in (("a", ["x", "y", "z"]), ("b", ["x", "z", "y"])):
        write_numbered(tmp_path / name, [2])
        describe(tmp_path / name, {"shards-0000.tar": 2}, classes=classes)
    both = [str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(DataError, match="describe different data"):
        shards(both)
    describe(tmp_path / "b", {"shards-0000.tar": 2}, classes=["x", "y", "z"])
    assert len(shards(both)) == 4, "shards of one name in different folders are different shards"
    (tmp_path / "b" / "dataset.json").unlink()
    with pytest.raises(DataError, match="to as well"):
        shards(both)


def test_shards_that_a_description_lists_and_nobody_uses_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_numbered(tmp_path, [2])
    describe(tmp_path, {"shards-0000.tar": 2, "shards-0001.tar": 5})
    with caplog.at_level(logging.WARNING, logger="dfm"):
        assert len(shards(tmp_path)) == 2
    assert caplog.messages == ["1 shards that dataset.json lists are not used"]


def test_headers_are_read_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = write_numbered(tmp_path, [3, 4])
    before = numbers(shards(tmp_path))
    assert sorted(path.suffix for path in own_cache.iterdir() if path.is_file()) == [".index", ".index"]
    scanned: list[str] = []
    scan = shard_reader.scan_shard
    monkeypatch.setattr(shard_reader, "scan_shard", lambda *given: scanned.append(given[1]) or scan(*given))
    assert numbers(shards(tmp_path)) == before
    assert scanned == []
    index = next(own_cache.glob("shards-0001*.index"))
    index.write_bytes(index.read_bytes()[:-9])
    assert numbers(shards(tmp_path)) == before
    assert [Path(name).name for name in scanned] == ["shards-0001.tar"], "a broken index is made again"
    write_shard(first, numbered(range(20, 29)))
    assert numbers(shards(tmp_path)) == [*range(20, 29), *before[3:]], "and one of another file"
    shards(tmp_path, label="txt")
    assert len(scanned) == 4, "and one of other options"
    assert not list(own_cache.glob("*.part"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_who_may_read_an_index_is_the_umasks_choice(tmp_path: Path, own_cache: Path) -> None:
    before = os.umask(0o027)
    try:
        numbers(shards(write_numbered(tmp_path, [2])[0].parent))
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in own_cache.glob("*.index")] == [0o640]


def test_a_long_first_start_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_numbered(tmp_path, [3, 4])
    monkeypatch.setattr(shard_survey, "_MUCH", 1000)
    with caplog.at_level(logging.WARNING, logger="dfm"):
        shards(tmp_path)
        shards(tmp_path)
    assert caplog.messages == ["the headers of 2 shards (0 GB) are read once; the next start is quick"]


def test_a_shard_that_changes_while_it_is_used_stops_the_run(tmp_path: Path) -> None:
    first, _ = write_numbered(tmp_path, [3, 4])
    dataset = shards(tmp_path)
    first.touch()
    assert numbers(dataset)[:3] == [0, 1, 2], "the time alone is no change"
    copy = pickle.loads(pickle.dumps(dataset))
    write_shard(first, numbered(range(20, 23)))
    with pytest.raises(DataError, match=r"0000\.tar is no longer what it was"):
        copy.load(0, 0)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_numbered(tmp_path / "data", [1])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot make the folder .*dataset\.options\.cache"):
        shards(tmp_path / "data", cache=str(tmp_path / "file" / "cache"))


def test_few_shards_are_open_at_a_time(tmp_path: Path) -> None:
    write_numbered(tmp_path, [1] * 12)
    dataset = shards(tmp_path, shuffle_window=2)
    assert numbers(dataset) == list(range(12))
    assert len(dataset._reader._open) == 3
    assert dataset.shuffle_window == 2


def part_of(dataset: WebDataset, process: int, processes: int, start: int, stop: int) -> list[list[int]]:
    """What one of several processes reads: for each step the numbers in its part of a batch of 4."""
    part = (4 * process // processes, 4 * (process + 1) // processes)
    stream = BatchStream(dataset, 4, seed=3, part=part)
    read = [[number_of(image) for image in batch["image"]] for batch in stream.batches(start, stop)]
    assert stream.unreadable == {}
    return read


def test_no_sample_is_lost_or_repeated_in_an_epoch_across_resumes(tmp_path: Path) -> None:
    lengths = [5, 9, 1, 7, 6]
    write_numbered(tmp_path, lengths)
    total = sum(lengths)
    seen: list[int] = []
    stops = [0, 3, 4, 11, 21]  # 21 steps of 4 are three epochs of 28
    for (start, stop), processes in zip(itertools.pairwise(stops), (1, 4, 2, 1), strict=True):
        # Each time everything is made anew, for another number of processes.
        parts = [part_of(shards(tmp_path, shuffle_window=2), p, processes, start, stop) for p in range(processes)]
        seen += [number for step in zip(*parts, strict=True) for part in step for number in part]
    epochs = [seen[epoch * total : (epoch + 1) * total] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(total))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    straight = part_of(shards(tmp_path, shuffle_window=2), 0, 1, 0, 21)
    assert [number for step in straight for number in step] == seen


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path) -> None:
    write_numbered(tmp_path, [9, 8, 11])
    dataset = shards(tmp_path, shuffle_window=2)
    alone = [batch["image"] for batch in BatchStream(dataset, 4, seed=0).batches(2, 9)]
    shared = [batch["image"] for batch in BatchStream(dataset, 4, seed=0, workers=2).batches(2, 9)]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_long_and_foreign_names(tmp_path: Path) -> None:
    names = ["é/ü 1.png", "a" * 180 + "/" + "b" * 120 + ".png", "./c.PNG", "d.e/f.png"]
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for index, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(png(index))
            archive.addfile(info, io.BytesIO(png(index)))
    dataset = shards(tmp_path)
    assert numbers(dataset) == [0, 1, 2, 3]
    assert [dataset._opened(0).index.key(row) for row in range(4)] == [
        "é/ü 1",
        "a" * 180 + "/" + "b" * 120,
        "./c",
        "d.e/f",
    ]
