"""Folders of images: classes, splits, augmentation, and what is wrong with a folder."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dfm_core.errors import DataError, UnreadableSampleError, UsageError
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.training.data import BatchStream
from dfm_plugins.datasets.folder import Folder, find_images
from dfm_plugins.datasets.specs import FolderOptions


def write(path: Path, value: int = 0, size: tuple[int, int] = (12, 10)) -> None:
    """Write an image of one grey value; size: width × height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def folder(
    path: Path, size: tuple[int, ...] = (8, 8), split: str = "train", seed: int = 0, **options: object
) -> Folder:
    facts = DatasetFacts(size, split, seed)  # type: ignore[arg-type]
    return Folder(FolderOptions(path=str(path), **options), facts)  # type: ignore[arg-type]


def image_of(dataset: Folder, index: int, epoch: int = 0) -> torch.Tensor:
    image = dataset.load(index, epoch)["image"]
    assert isinstance(image, torch.Tensor)
    return image


def values(dataset: Folder) -> list[int]:
    return [round((float(image_of(dataset, index).mean()) + 1) * 127.5) for index in range(len(dataset))]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name, value in (("zebra/2.png", 30), ("zebra/deep/er/1.jpg", 40), ("ant/B.PNG", 10), ("ant/a.webp", 20)):
        write(tmp_path / name, value)
    write(tmp_path / ".hidden" / "x.png")
    (tmp_path / "ant" / ".DS_Store").touch()
    (tmp_path / "ant" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_sub_folders_are_classes_in_the_order_of_their_names(classes: Path) -> None:
    dataset = folder(classes)
    assert dataset.classes == ("ant", "zebra")
    assert find_images(classes) == ["ant/B.PNG", "ant/a.webp", "zebra/2.png", "zebra/deep/er/1.jpg"]
    assert [dataset.load(index, 0)["label"] for index in range(4)] == [0, 0, 1, 1]
    assert np.abs(np.subtract(values(dataset), [10, 20, 30, 40])).max() <= 2


def test_flat_folders_and_those_without_labels(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    flat = tmp_path_factory.mktemp("flat")
    for value in (5, 6, 7):
        write(flat / f"{value}.png", value)
    assert folder(flat).classes == ()
    assert set(folder(flat).load(0, 0)) == {"image"}
    assert values(folder(flat)) == [5, 6, 7]
    assert folder(classes, labels=False).classes == ()
    assert len(folder(classes, labels=False)) == 4


def test_images_beside_sub_folders_are_refused_unless_labels_are_off(classes: Path) -> None:
    write(classes / "loose.png")
    with pytest.raises(
        DataError, match=r"both in sub-folders \(ant, zebra\) and beside them \(loose.png\).*labels=false"
    ):
        folder(classes)
    assert len(folder(classes, labels=False)) == 5


def test_missing_empty_and_wrong_folders_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*absent; expected a folder of images .*--data"):
        folder(tmp_path / "absent")
    with pytest.raises(DataError, match="expected a folder of images.*found no files at all"):
        folder(tmp_path)
    for name in ("a.heic", "b.heic", "c.txt"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"found 2 ending in \.heic, 1 ending in \.txt"):
        folder(tmp_path)
    (tmp_path / "d.tar").touch()
    with pytest.raises(DataError, match=r"1 ending in \.tar, .*; tar shards are read by --dataset webdataset"):
        folder(tmp_path)
    with pytest.raises(DataError, match=r"c\.txt is a file; expected a folder"):
        folder(tmp_path / "c.txt")
    write(tmp_path / "a.png")
    with pytest.raises(UsageError, match="height × width"):
        folder(tmp_path, size=(1, 8, 8))


def test_links_in_a_circle_end(classes: Path) -> None:
    (classes / "ant" / "again").symlink_to(classes / "ant", target_is_directory=True)
    (classes / "moth").symlink_to(classes / "zebra", target_is_directory=True)
    assert len(find_images(classes)) == 4, "the same folder is listed once"


def test_every_kind_of_file_can_be_loaded(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "rotated.jpg", exif=exif)
    picture.convert("RGBA").save(tmp_path / "alpha.png")
    picture.convert("L").save(tmp_path / "grey.png")
    picture.quantize(16).save(tmp_path / "palette.gif")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.full((20, 30), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    dataset = folder(tmp_path, (8, 12))
    assert len(dataset) == 6
    for index in range(6):
        image = image_of(dataset, index)
        assert image.shape == (3, 8, 12)
        assert image.abs().max() <= 1
        assert image.is_contiguous()


def test_unreadable_files_are_named_and_skipped(tmp_path: Path) -> None:
    for index in range(30):
        write(tmp_path / f"{index:02}.png", index)
    content = (tmp_path / "07.png").read_bytes()
    (tmp_path / "07.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "11.jpg").write_text("not a picture")
    dataset = folder(tmp_path)
    with pytest.raises(UnreadableSampleError, match=r"cannot read image .*07\.png"):
        dataset.load(7, 0)
    with pytest.raises(UnreadableSampleError, match=r"cannot read image .*11\.jpg"):
        dataset.load(11, 0)
    messages: list[str] = []
    stream = BatchStream(dataset, 31, seed=0, warn=messages.append)
    assert next(stream.batches())["image"].shape == (31, 3, 8, 8)
    assert len(messages) == len(stream.unreadable) == 2


def test_random_crops_move_and_centre_crops_stay(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (16, 64, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    centre, random = folder(tmp_path, (16, 16)), folder(tmp_path, (16, 16), crop="random")
    assert abs(float(image_of(centre, 0).mean())) < 0.01
    assert torch.equal(image_of(centre, 0, 0), image_of(centre, 0, 1))
    means = torch.stack([image_of(random, 0, epoch).mean() for epoch in range(40)])
    assert means.min() < -0.5
    assert means.max() > 0.5
    assert torch.equal(image_of(random, 0, 3), image_of(folder(tmp_path, (16, 16), crop="random"), 0, 3))
    other = folder(tmp_path, (16, 16), crop="random", seed=1)
    assert not torch.equal(image_of(random, 0, 3), image_of(other, 0, 3))


def test_half_of_the_images_are_flipped(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8)[None, :, None], (16, 16, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    dataset, plain = folder(tmp_path, flip=True), image_of(folder(tmp_path), 0)
    flipped = 0
    for epoch in range(200):
        image = image_of(dataset, 0, epoch)
        flipped += (is_flipped := torch.equal(image, plain.flip(-1)))
        assert is_flipped or torch.equal(image, plain)
    assert 70 < flipped < 130


def test_validation_is_split_off_by_name(tmp_path: Path) -> None:
    for index in range(200):
        write(tmp_path / f"{index}.png", index, (4, 4))

    def names(split: str, seed: int = 0) -> set[str]:
        return set(folder(tmp_path, (4, 4), split, seed, validation_fraction=0.2)._names)

    train, validation = names("train"), names("validation")
    assert not train & validation
    assert len(train | validation) == 200
    assert 20 <= len(validation) <= 60
    assert names("validation", seed=1) != validation
    for index in range(200, 260):
        write(tmp_path / f"{index}.png", 0, (4, 4))
    assert train <= names("train")
    assert validation <= names("validation")
    assert len(folder(tmp_path, split="validation")) == 0


def test_classes_are_the_same_in_both_splits_and_validation_is_not_augmented(tmp_path: Path) -> None:
    for index in range(40):
        write(tmp_path / str(index % 20) / f"{index}.png", 6 * index, (16, 8))
    train, validation = (
        folder(tmp_path, split=split, validation_fraction=0.3, crop="random", flip=True)
        for split in ("train", "validation")
    )
    assert train.classes == validation.classes
    assert len(train.classes) == 20
    assert all(torch.equal(image_of(validation, i, 0), image_of(validation, i, 1)) for i in range(len(validation)))


def test_a_split_that_leaves_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "only.png")
    with pytest.raises(DataError, match=r"all 1 images .* validation split.*validation_fraction \(0\.999999\)"):
        folder(tmp_path, validation_fraction=0.999999)


def test_pickled_copies_load_the_same(classes: Path) -> None:
    dataset = folder(classes, crop="random", flip=True)
    copy = pickle.loads(pickle.dumps(dataset))
    assert all(torch.equal(image_of(dataset, i, 5), image_of(copy, i, 5)) for i in range(len(dataset)))
