"""Tables of the library `datasets`: saved, from files, from its cache; columns, labels, splits; never its hub."""

from __future__ import annotations

import builtins
import io
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dfm_core.errors import ConfigError, DataError, UnreadableSampleError, UsageError
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.plugins.validation import validate
from dfm_core.training.data import BatchStream
from dfm_plugins.datasets.folder import Folder
from dfm_plugins.datasets.hugging_face import HuggingFace
from dfm_plugins.datasets.specs import FolderOptions, HuggingFaceOptions

library = pytest.importorskip("datasets")
CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(autouse=True)
def quiet_and_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    library.disable_progress_bars()
    yield
    library.enable_progress_bars()


def pictures(count: int, size: tuple[int, int] = (4, 4)) -> list[Image.Image]:
    return [Image.new("RGB", size, (number, number, number)) for number in range(count)]


def content(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def table(count: int = 6, **columns: tuple[Any, list[Any]]) -> Any:
    """A table with images, class labels and what else is given as name=(feature, values)."""
    features = {"image": library.Image(), "label": library.ClassLabel(names=CLASSES)}
    values = {"image": pictures(count), "label": [number % 3 for number in range(count)]}
    features |= {name: feature for name, (feature, _) in columns.items()}
    values |= {name: given for name, (_, given) in columns.items()}
    return library.Dataset.from_dict(values, features=library.Features(features))


def open_data(path: object, split: str = "train", size: tuple[int, ...] = (4, 4), **more: object) -> HuggingFace:
    options = validate(HuggingFaceOptions, {"path": str(path), **more})
    return HuggingFace(options, DatasetFacts(size, split, 0))  # type: ignore[arg-type]


def numbers(dataset: HuggingFace) -> list[int]:
    images = [dataset.load(index, 0)["image"] for index in range(len(dataset))]
    return [round((float(image.mean()) + 1) * 127.5) for image in images]  # type: ignore[union-attr]


def labels(dataset: HuggingFace) -> list[Any]:
    return [dataset.load(index, 0).get("label") for index in range(len(dataset))]


def test_a_saved_table(tmp_path: Path) -> None:
    table(caption=(library.Value("string"), ["x"] * 6)).save_to_disk(str(tmp_path / "saved"))
    dataset = open_data(tmp_path / "saved")
    assert dataset.classes == tuple(CLASSES)
    assert numbers(dataset) == list(range(6))
    assert labels(dataset) == [0, 1, 2, 0, 1, 2]
    assert dataset.shard_lengths() is None
    assert len(open_data(tmp_path / "saved", "validation")) == 0
    assert labels(open_data(tmp_path / "saved", labels=False)) == [None] * 6


def test_saved_splits(tmp_path: Path) -> None:
    splits = {"train": table(6), "validation": table(2), "test": table(3)}
    library.DatasetDict(splits).save_to_disk(str(tmp_path))
    assert len(open_data(tmp_path)) == 6
    assert len(open_data(tmp_path, "validation")) == 2
    assert len(open_data(tmp_path, "validation", validation="test")) == 3
    assert len(open_data(tmp_path, train="test")) == 3
    assert len(open_data(tmp_path, "validation", train="validation")) == 0
    with pytest.raises(
        DataError, match=r"expected a split 'x', got train, validation, test; .*dataset\.options\.train"
    ):
        open_data(tmp_path, train="x")
    with pytest.raises(DataError, match=r"expected a split 'x' for validation, got"):
        open_data(tmp_path, "validation", validation="x")
    with pytest.raises(ConfigError, match="expected one of them, got both"):
        open_data(tmp_path, validation="test", validation_fraction=0.1)


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    other = table(3).cast_column("label", library.ClassLabel(names=["x", "y", "z"]))
    library.DatasetDict(
        {"train": table(3), "validation": other, "test": table(3).remove_columns("label")}
    ).save_to_disk(str(tmp_path))
    with pytest.raises(DataError, match="the splits have different classes"):
        open_data(tmp_path, "validation")
    with pytest.raises(DataError, match="lacks the column 'label'"):
        open_data(tmp_path, "validation", validation="test")


def test_a_share_of_the_rows_for_validation(tmp_path: Path) -> None:
    table(200).save_to_disk(str(tmp_path))
    train, validation = (set(numbers(open_data(tmp_path, s, validation_fraction=0.2))) for s in ("train", "validation"))
    assert not train & validation
    assert train | validation == set(range(200))
    assert 20 <= len(validation) <= 60
    table(2).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(DataError, match=r"2 rows in 'train', expected some for training"):
        open_data(tmp_path / "two", validation_fraction=0.999999)


def test_parquet_and_arrow_files(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("validation", 2)):
        (tmp_path / "data").mkdir(exist_ok=True)
        table(count).to_parquet(str(tmp_path / "data" / f"{split}-00000-of-00001.parquet"))
    cache = str(tmp_path / "cache")
    dataset = open_data(tmp_path / "data", cache=cache)
    assert (numbers(dataset), dataset.classes) == (list(range(5)), tuple(CLASSES))
    assert len(open_data(tmp_path / "data", "validation", cache=cache)) == 2
    assert len(open_data(tmp_path / "data" / "validation-00000-of-00001.parquet", cache=cache)) == 2
    table(4).save_to_disk(str(tmp_path / "saved"))
    file = next((tmp_path / "saved").glob("*.arrow"))
    assert numbers(open_data(file, cache=cache)) == [0, 1, 2, 3]


def test_files_that_other_programs_wrote(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    contents = [content(picture) for picture in pictures(4)]
    columns = {"picture": contents, "kind": ["b", "a", None, "b"], "label": [5, 0, 2, 2], "score": [0.1] * 4}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    cache = str(tmp_path / "cache")
    dataset = open_data(tmp_path / "a.parquet", cache=cache)
    assert numbers(dataset) == [0, 1, 2, 3]
    assert dataset.classes == ("0", "1", "2", "3", "4", "5")
    assert labels(dataset) == [5, 0, 2, 2]
    words = open_data(tmp_path / "a.parquet", cache=cache, label="kind")
    assert words.classes == ("a", "b")
    assert [words.load(index, 0)["label"] for index in (0, 1, 3)] == [1, 0, 1]
    with pytest.raises(UnreadableSampleError, match=r"row 2 of .*a\.parquet has the label None"):
        words.load(2, 0)


def test_a_folder_of_images_is_read_as_by_folder(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(6):
        place = tmp_path / "images" / CLASSES[index % 3]
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.jpg")
    dataset = open_data(tmp_path / "images", size=(8, 12), crop="random", flip=True, cache=str(tmp_path / "cache"))
    facts = DatasetFacts((8, 12), "train", 0)
    folder = Folder(FolderOptions(path=str(tmp_path / "images"), crop="random", flip=True), facts)
    assert dataset.classes == folder.classes
    assert labels(dataset) == [folder.load(index, 0)["label"] for index in range(6)]
    for index in range(6):
        assert torch.equal(dataset.load(index, 3)["image"], folder.load(index, 3)["image"])  # type: ignore[arg-type]


def test_columns_are_found_or_asked_for(tmp_path: Path) -> None:
    two = table(2, mask=(library.Image(), pictures(2)[::-1]), second=(library.ClassLabel(names=["u", "v"]), [1, 0]))
    two.save_to_disk(str(tmp_path))
    with pytest.raises(DataError, match=r"expected one column of images, got 2 \(image, mask\); .*options\.image"):
        open_data(tmp_path)
    with pytest.raises(DataError, match=r"expected one column of class labels, got 2 \(label, second\)"):
        open_data(tmp_path, image="mask")
    dataset = open_data(tmp_path, image="mask", label="second")
    assert (numbers(dataset), dataset.classes, labels(dataset)) == ([1, 0], ("u", "v"), [1, 0])
    with pytest.raises(DataError, match=r"image='imag': there is no such column; .* Did you mean 'image'"):
        open_data(tmp_path, image="imag")
    with pytest.raises(DataError, match=r"label='mask': that column holds something else; expected one of label, sec"):
        open_data(tmp_path, image="image", label="mask")
    table(2).remove_columns("image").save_to_disk(str(tmp_path / "none"))
    with pytest.raises(DataError, match="expected one column of images, got none among label"):
        open_data(tmp_path / "none")


def test_rows_without_image_or_label_are_named_and_skipped(tmp_path: Path) -> None:
    files = [{"bytes": content(picture), "path": None} for picture in pictures(40)]
    files[3] = {"bytes": b"no picture", "path": None}
    files[5] = None
    features = library.Features({"image": library.Image(decode=False), "label": library.ClassLabel(names=CLASSES)})
    values = {"image": files, "label": [-1 if row == 7 else row % 3 for row in range(40)]}
    library.Dataset.from_dict(values, features=features).save_to_disk(str(tmp_path))
    dataset = open_data(tmp_path)
    for row, message in ((3, "no known format"), (5, "holds no image"), (7, "has the label -1: expected 0…2")):
        with pytest.raises(UnreadableSampleError, match=rf"row {row} of .*{message}"):
            dataset.load(row, 0)
    stream = BatchStream(dataset, 40, seed=0, warn=lambda message: None)
    assert next(stream.batches())["image"].shape == (40, 3, 4, 4)
    assert len(stream.unreadable) == 3


@pytest.mark.parametrize("name", ["{outside}/secret.png", "{inside}/../secret.png", "secret.png", "http://h/a.png"])
def test_a_table_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    pictures(1)[0].save(tmp_path / "secret.png")
    path = name.format(outside=tmp_path, inside=tmp_path / "data")
    features = library.Features({"image": {"bytes": library.Value("binary"), "path": library.Value("string")}})
    rows = library.Dataset.from_dict({"image": [{"bytes": None, "path": path}]}, features=features)
    rows.save_to_disk(str(tmp_path / "data"))
    dataset = open_data(tmp_path / "data")
    with pytest.raises(UnreadableSampleError, match=r"row 0 of .* names the file .* outside of"):
        dataset.load(0, 0)


def test_saved_tables_cannot_lie_elsewhere(tmp_path: Path) -> None:
    table(2).save_to_disk(str(tmp_path / "a"))
    table(2).save_to_disk(str(tmp_path / "b"))
    state = json.loads((tmp_path / "a" / "state.json").read_text())
    state["_data_files"] = [{"filename": "../b/data-00000-of-00001.arrow"}]
    (tmp_path / "a" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=r"expected names of files in its folder, got '\.\./b/"):
        open_data(tmp_path / "a")


def test_what_is_no_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set in .*: expected a folder from save_to_disk.*found nothing"):
        open_data(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"found notes\.txt"):
        open_data(tmp_path)
    (tmp_path / "script.py").write_text("raise SystemExit('code was run')")
    (tmp_path / "data.pkl").write_bytes(b"\x80")
    with pytest.raises(DataError, match=r"found data\.pkl, notes\.txt, script\.py"):
        open_data(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"cannot read .*broken\.parquet as a data set"):
        open_data(tmp_path / "broken.parquet", cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"no file or folder /absent; expected one, or the name"):
        open_data("/absent")
    table(1).select([]).to_parquet(str(tmp_path / "empty.parquet"))
    with pytest.raises(DataError, match="corresponds to no data"):
        open_data(tmp_path / "empty.parquet", cache=str(tmp_path / "cache"))
    with pytest.raises(UsageError, match="height × width"):
        open_data(tmp_path, size=(4, 4, 4))


def test_a_name_works_only_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"owner/pictures is neither a file or folder here nor in the cache .*download"):
        open_data("owner/pictures", cache=str(cache))
    table(4).to_parquet(str(tmp_path / "train.parquet"))
    open_data(tmp_path / "train.parquet", cache=str(cache))
    # What the library leaves of a data set that was fetched: <owner>___<name>/<configuration>/<version>/<hash>.
    made = next(cache.glob("parquet/*/0.0.0/*/dataset_info.json")).parent
    place = cache / "owner___pictures" / "default" / "0.0.0" / made.name
    shutil.copytree(made, place)
    for file in place.glob("parquet-*.arrow"):
        file.rename(place / file.name.replace("parquet-", "pictures-"))
    info = json.loads((place / "dataset_info.json").read_text())
    (place / "dataset_info.json").write_text(json.dumps(info | {"config_name": "default", "dataset_name": "pictures"}))
    assert numbers(open_data("owner/pictures", cache=str(cache))) == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"config 'other'"):
        open_data("owner/pictures", cache=str(cache), configuration="other")


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "datasets":
            raise ImportError(f"No module named {name!r}")
        return known(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'decomposable-flow-matching\[data\]'"):
        open_data(tmp_path)
