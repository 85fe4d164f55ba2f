"""Every built-in data set holds every law, and for every law there is a data set that breaks it."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_files import numbered, write_video
from PIL import Image
from shard_files import describe, npy, write_shard

from dfm_core.conformance import LawBroken, check_component, dataset, laws_of
from dfm_core.conformance.law import Law
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample, Section
from dfm_core.plugins import DatasetSpec, Options
from dfm_plugins.datasets.folder import Folder
from dfm_plugins.datasets.hugging_face import HuggingFace
from dfm_plugins.datasets.moving_shapes import MovingShapes
from dfm_plugins.datasets.shapes import Shapes
from dfm_plugins.datasets.specs import (
    SPECS,
    FolderOptions,
    HuggingFaceOptions,
    MovingShapesOptions,
    ShapesOptions,
    VideoFolderOptions,
    WebDatasetOptions,
)
from dfm_plugins.datasets.video_folder import VideoFolder
from dfm_plugins.datasets.webdataset import WebDataset

LAWS = {law.name: law for law in laws_of("dataset")}
IN_A_PROCESS = "loads_the_same_in_another_process"


def folder_of_noise(path: Path, classes: int) -> None:
    """Write 24 images, one of them cut off."""
    generator = np.random.default_rng(0)
    for index in range(24):
        place = path / f"class {index % classes}" if classes else path
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (14, 20, 3), dtype=np.uint8)).save(place / f"{index}.png")
    (place / "0cut.png").write_bytes((place / f"{index}.png").read_bytes()[:300])


def shapes(size: tuple[int, int], split: str, **options: object) -> Callable[[Path], Dataset]:
    facts = DatasetFacts(size, split, 0)  # type: ignore[arg-type]
    return lambda path: Shapes(ShapesOptions(**options), facts)  # type: ignore[arg-type]


def folder(classes: int, size: tuple[int, int], split: str, **options: object) -> Callable[[Path], Dataset]:
    def make(path: Path) -> Dataset:
        folder_of_noise(path, classes)
        facts = DatasetFacts(size, split, 0)  # type: ignore[arg-type]
        return Folder(FolderOptions(path=str(path), **options), facts)  # type: ignore[arg-type]

    return make


def shards(split: str, **options: object) -> Callable[[Path], Dataset]:
    def make(path: Path) -> Dataset:
        generator = np.random.default_rng(0)
        for shard in range(3):
            members = []
            for index in range(8 + shard):
                file = io.BytesIO()
                Image.fromarray(generator.integers(0, 256, (14, 20, 3), dtype=np.uint8)).save(file, "PNG")
                members += [(f"{shard}{index}.png", file.getvalue()), (f"{shard}{index}.cls", str(index % 4).encode())]
            write_shard(path / f"{shard}.tar", [*members, ("cut.png", file.getvalue()[:300])])
        facts = DatasetFacts((8, 12), split, 0)  # type: ignore[arg-type]
        return WebDataset(WebDatasetOptions(path=str(path), cache=str(path), **options), facts)  # type: ignore[arg-type]

    return make


def latents(path: Path) -> Dataset:
    generator = np.random.default_rng(0)
    for shard in range(2):
        arrays = generator.normal(size=(9, 4, 2, 3)).astype(np.float16)
        write_shard(path / f"{shard}.tar", [(f"{index}.latent.npy", npy(array)) for index, array in enumerate(arrays)])
    describe(path, {"0.tar": 9, "1.tar": 9}, autoencoder="vae", latent_shape=[4, 2, 3])
    options = WebDatasetOptions(path=str(path), cache=str(path), validation_fraction=0.3)
    return WebDataset(options, DatasetFacts((16, 24), "train", 0))


def table(split: str, **options: object) -> Callable[[Path], Dataset]:
    def make(path: Path) -> Dataset:
        library = pytest.importorskip("datasets")
        library.disable_progress_bars()
        folder_of_noise(path / "images", 3)
        more = {"path": str(path / "images"), "cache": str(path / "cache")}
        facts = DatasetFacts((8, 12), split, 0)  # type: ignore[arg-type]
        return HuggingFace(HuggingFaceOptions(**more, **options), facts)  # type: ignore[arg-type]

    return make


def moving_shapes(size: tuple[int, ...], split: str, **options: object) -> Callable[[Path], Dataset]:
    facts = DatasetFacts(size, split, 0)  # type: ignore[arg-type]
    return lambda path: MovingShapes(MovingShapesOptions(**options), facts)  # type: ignore[arg-type]


def clips(split: str, **options: object) -> Callable[[Path], Dataset]:
    def make(path: Path) -> Dataset:
        pytest.importorskip("av")
        for index in range(12):
            place = path / ("cats" if index % 2 else "dogs")
            write_video(
                place / f"{index}.{'webm' if index % 3 else 'mp4'}",
                10 + index,
                first=40 * index,
                codec="mpeg4" if index % 3 == 0 else "libvpx",
                key_frames=4,
            )
            Image.fromarray(numbered(index)).save(place / f"{index}.png")
        (path / "cats" / "0cut.mp4").write_bytes((path / "dogs" / "0.mp4").read_bytes()[:900])
        facts = DatasetFacts((5, 8, 12), split, 0)  # type: ignore[arg-type]
        return VideoFolder(VideoFolderOptions(path=str(path), **options), facts)  # type: ignore[arg-type]

    return make


BUILT_IN = {
    "shapes": shapes((16, 16), "train"),
    "shapes plain wide": shapes((12, 20), "train", texture="plain", rotation=180),
    "shapes hard validation": shapes((20, 12), "validation", texture="hard"),
    "shapes few": shapes((16, 16), "train", train_images=3, validation_images=0),
    "moving_shapes": moving_shapes((4, 16, 16), "train"),
    "moving_shapes hard validation": moving_shapes((3, 20, 12), "validation", texture="hard"),
    "video_folder": clips("train", crop="random", flip=True, validation_fraction=0.3),
    "video_folder joint": clips("train", frame_rate=12, stills=True, validation_fraction=0.3),
    "video_folder joint validation": clips("validation", stills=True, validation_fraction=0.3),
    "folder": folder(3, (8, 8), "train", crop="random", flip=True, validation_fraction=0.3),
    "folder flat": folder(0, (12, 8), "train"),
    "folder validation": folder(2, (8, 16), "validation", validation_fraction=0.4),
    "webdataset": shards("train", crop="random", flip=True, validation_fraction=0.3, shuffle_window=2),
    "webdataset validation": shards("validation", validation_fraction=0.3),
    "webdataset latents": latents,
    "hugging_face": table("train", crop="random", flip=True, validation_fraction=0.3),
    "hugging_face validation": table("validation", validation_fraction=0.3),
}
# A spawned process takes seconds, so one data set a component.
CASES = [
    pytest.param(make, law, id=f"{name}-{law.name}")
    for name, make in BUILT_IN.items()
    for law in LAWS.values()
    if law.name != IN_A_PROCESS or name in ("shapes", "folder", "webdataset", "hugging_face")
]


@pytest.mark.parametrize(("make", "law"), CASES)
def test_laws_hold(make: Callable[[Path], Dataset], law: Law, tmp_path: Path) -> None:
    law.check(make(tmp_path))


def test_every_component_is_tested() -> None:
    assert {spec.name for spec in SPECS} == {name.split()[0] for name in BUILT_IN}


class Sound(Dataset):
    """A minimal data set that holds every law; the broken ones change one thing about it."""

    def __init__(self, options: Options, facts: DatasetFacts) -> None:
        super().__init__(options, facts)
        self.last = 0
        self.given: dict[int, torch.Tensor] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        return ("low", "high")

    def __len__(self) -> int:
        return 10

    def value(self, index: int) -> float:
        return (index + (0.25 if self.facts.split == "train" else 0.5)) / 10

    def load(self, index: int, epoch: int) -> Sample:
        return {"image": torch.full((3, *self.facts.size), self.value(index)), "label": index % 2}


class WrongShape(Sound):
    def load(self, index: int, epoch: int) -> Sample:
        return {"image": torch.full((1, *self.facts.size), self.value(index)), "label": 0}


class WrongRange(Sound):
    def value(self, index: int) -> float:
        return 25.5 * super().value(index)


class NotANumber(Sound):
    def load(self, index: int, epoch: int) -> Sample:
        sample = super().load(index, epoch)
        sample["image"][0, 0, 0] = torch.nan  # type: ignore[index]
        return sample


class WrongType(Sound):
    def load(self, index: int, epoch: int) -> Sample:
        grey = torch.full((3, *self.facts.size), 100 * self.value(index))
        return {"image": grey.to(torch.uint8), "label": 0}


class TooMuch(Sound):
    def load(self, index: int, epoch: int) -> Sample:
        return super().load(index, epoch) | {"caption": 3}


class LabelOutside(Sound):
    def load(self, index: int, epoch: int) -> Sample:
        return super().load(index, epoch) | {"label": 2}


class LabelMissing(Sound):
    def load(self, index: int, epoch: int) -> Sample:
        return {"image": torch.full((3, *self.facts.size), self.value(index))}


class LabelWithoutClasses(Sound):
    @property
    def classes(self) -> tuple[str, ...]:
        return ()


class SameNames(Sound):
    @property
    def classes(self) -> tuple[str, ...]:
        return ("low", "low")


class DependsOnTheOrder(Sound):
    def value(self, index: int) -> float:
        backwards, self.last = index < self.last, index
        return super().value(index) + 1e-3 * backwards


class Sharing(Sound):
    def load(self, index: int, epoch: int) -> Sample:
        image = self.given.setdefault(index, torch.full((3, *self.facts.size), self.value(index)))
        return {"image": image, "label": index % 2}


class OfItsProcess(Sound):
    def value(self, index: int) -> float:
        return super().value(index) + (os.getpid() % 1000) / 1e6


class Unpicklable(Sound):
    def __init__(self, options: Options, facts: DatasetFacts) -> None:
        super().__init__(options, facts)
        self.read = lambda index: index


class GlobalTorch(Sound):
    def value(self, index: int) -> float:
        torch.rand(())
        return super().value(index)


class GlobalNumpy(Sound):
    def value(self, index: int) -> float:
        np.random.rand()  # noqa: NPY002
        return super().value(index)


class GlobalPython(Sound):
    def value(self, index: int) -> float:
        state = random.getstate()
        value = super().value(index) + random.random() / 1e3
        random.setstate(state)
        return value


class SameSplits(Sound):
    def value(self, index: int) -> float:
        return index / 10


class ShardsTooShort(Sound):
    def shard_lengths(self) -> tuple[int, ...]:
        return (4, 5)


class ShardsOfFractions(Sound):
    def shard_lengths(self) -> tuple[int, ...]:
        return (4.5, 5.5)  # type: ignore[return-value]


class SoundClips(Sound):
    """Clips, and then images among them."""

    def load(self, index: int, epoch: int) -> Sample:
        _, height, width = self.facts.size
        frames = self.facts.size[0] if index < 6 else 1
        return {"video": torch.full((3, frames, height, width), self.value(index)), "label": index % 2}

    def sections(self) -> tuple[Section, ...] | None:
        return Section(6, self.facts.size), Section(4, (1, *self.facts.size[1:]))


def broken_laws(broken: type[Sound], size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch | None) -> dict[str, str]:
    """Law -> message. monkeypatch: makes this process stand for a new one, which takes seconds."""
    if monkeypatch is not None:
        monkeypatch.setattr(
            dataset, "call_fresh", lambda function, *given: function(*pickle.loads(pickle.dumps(given)))
        )
    found = {}
    for name, law in LAWS.items():
        try:
            law.check(broken(Options(), DatasetFacts(size, "train", 0)))
        except LawBroken as error:
            found[name] = str(error)
    return found


class SectionsTooShort(SoundClips):
    """Says nothing of the last sample, which is as large as asked."""

    def load(self, index: int, epoch: int) -> Sample:
        return super().load(9 - index, epoch)

    def sections(self) -> tuple[Section, ...] | None:
        return Section(4, (1, *self.facts.size[1:])), Section(5, self.facts.size)


class SectionsShifted(SoundClips):
    """The law about the form sees some samples, not number 4; this one the ends of each section."""

    def load(self, index: int, epoch: int) -> Sample:
        return super().load(index if index < 4 else 6 + index % 4, epoch)

    def sections(self) -> tuple[Section, ...] | None:
        return Section(5, self.facts.size), Section(5, (1, *self.facts.size[1:]))


class SectionsAndShards(SoundClips):
    def shard_lengths(self) -> tuple[int, ...]:
        return (6, 4)


class OneFrameTooFew(SoundClips):
    def load(self, index: int, epoch: int) -> Sample:
        sample = super().load(index, epoch)
        return {**sample, "video": sample["video"][:, :-1] if index == 1 else sample["video"]}  # type: ignore[index]


class ClipsCalledImages(SoundClips):
    def load(self, index: int, epoch: int) -> Sample:
        sample = super().load(index, epoch)
        return {"image": sample["video"], "label": sample["label"]}


@pytest.mark.parametrize(
    ("broken", "law", "message"),
    [
        (SectionsTooShort, "sections_add_up", "expected 10 samples in all, got 9"),
        (
            SectionsShifted,
            "sections_add_up",
            r"sample 4: expected the size \(5, 4, 6\) of its section, got .*\(3, 1, 4, 6\)",
        ),
        (SectionsAndShards, "sections_add_up", "expected sections or shards, got both"),
        (OneFrameTooFew, "samples_have_the_declared_form", r"expected the shape \(3, 5, 4, 6\), got \(3, 4, 4, 6\)"),
        (
            ClipsCalledImages,
            "samples_have_the_declared_form",
            r"expected one of \['latent', 'video'\] .* got \['image', 'label'\]",
        ),
    ],
)
def test_broken_clips_break_their_law_only(
    broken: type[Sound], law: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = broken_laws(broken, (5, 4, 6), monkeypatch)
    assert set(found) == {law}
    assert re.search(message, found[law])


@pytest.mark.parametrize(("made", "size"), [(Sound, (4, 6)), (SoundClips, (5, 4, 6))])
def test_the_sound_ones_hold_every_law(made: type[Sound], size: tuple[int, ...]) -> None:
    for name, law in LAWS.items():
        if name != IN_A_PROCESS:
            law.check(made(Options(), DatasetFacts(size, "train", 0)))


@pytest.mark.parametrize(
    ("broken", "law", "message"),
    [
        (WrongShape, "samples_have_the_declared_form", r"expected the shape \(3, 4, 6\), got \(1, 4, 6\)"),
        (WrongRange, "samples_have_the_declared_form", r"in \[-1, 1\], got 3\.1875"),
        (NotANumber, "samples_have_the_declared_form", "finite"),
        (WrongType, "samples_have_the_declared_form", "expected a float32 tensor, got torch.uint8"),
        (TooMuch, "samples_have_the_declared_form", "caption"),
        (LabelOutside, "labels_match_the_classes", "int label in 0…1, got 2"),
        (LabelMissing, "labels_match_the_classes", "got None"),
        (LabelWithoutClasses, "labels_match_the_classes", "no classes"),
        (SameNames, "labels_match_the_classes", "different class names"),
        (DependsOnTheOrder, "loading_is_pure", "other bits at the second load"),
        (Sharing, "loading_is_pure", "return a copy"),
        (OfItsProcess, IN_A_PROCESS, "differ in another process"),
        (Unpicklable, IN_A_PROCESS, "cannot be pickled"),
        (GlobalTorch, "global_random_state_is_untouched", "state of torch"),
        (GlobalNumpy, "global_random_state_is_untouched", "state of NumPy"),
        (GlobalPython, "global_random_state_is_untouched", "depend on a global random state"),
        (SameSplits, "splits_are_disjoint", "10 samples are in both splits"),
        (ShardsTooShort, "shard_lengths_add_up", "expected 10 samples in all, got 9"),
        (ShardsOfFractions, "shard_lengths_add_up", "expected integers"),
    ],
)
def test_a_broken_data_set_breaks_its_law_only(
    broken: type[Sound], law: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = broken_laws(broken, (4, 6), None if law == IN_A_PROCESS else monkeypatch)
    assert set(found) == {law}
    assert re.search(message, found[law])


class BrokenValidation(Sound):
    def value(self, index: int) -> float:
        return super().value(index) + (200.0 if self.facts.split == "validation" else 0.0)

    def load(self, index: int, epoch: int) -> Sample:
        return super().load(index, epoch) | ({"label": 7} if self.facts.split == "validation" else {})


class OneImage(Sound):
    def __len__(self) -> int:
        return 0 if self.facts.split == "validation" else 1


def test_the_split_of_validation_is_judged() -> None:
    spec = DatasetSpec("broken", "Only its validation is broken.", f"{__name__}:BrokenValidation")
    broken = {result.law: result.message for result in check_component(spec) if result.state == "broken"}
    assert set(broken) == {"samples_have_the_declared_form", "labels_match_the_classes"}
    assert broken["samples_have_the_declared_form"].endswith("[in 2 of 4 cases, first: 32, validation]")


def test_the_split_of_validation_may_be_empty() -> None:
    results = check_component(DatasetSpec("one", "One image.", f"{__name__}:OneImage"))
    assert {result.law: result.message for result in results if result.state != "held"} == {}


def test_a_data_set_without_samples_for_training_is_none() -> None:
    class Empty(Sound):
        def __len__(self) -> int:
            return 0

    with pytest.raises(LawBroken, match="expected at least one readable sample among 0, got none"):
        LAWS["samples_have_the_declared_form"].check(Empty(Options(), DatasetFacts((4, 6), "train", 0)))


def test_every_law_has_a_broken_data_set() -> None:
    tests = (test_a_broken_data_set_breaks_its_law_only, test_broken_clips_break_their_law_only)
    marks = [mark for test in tests for mark in test.pytestmark]  # type: ignore[attr-defined]
    assert {law for mark in marks for _, law, _ in mark.args[1]} == set(LAWS)


def test_laws_leave_the_global_random_state_as_it_was() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    LAWS["global_random_state_is_untouched"].check(Sound(Options(), DatasetFacts((4, 6), "train", 0)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]  # type: ignore[index]  # noqa: NPY002
