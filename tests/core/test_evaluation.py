"""Evaluations: image sets, stored samples, the cache of references, numbers; killed, resumed, and in two processes."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dfm_core.api import train
from dfm_core.errors import CompositionError, DataError, DFMError, UsageError
from dfm_core.evaluation.evaluation import (
    Evaluation,
    EvaluationSettings,
    evaluate_folder,
    evaluate_model,
)
from dfm_core.evaluation.image_sets import (
    Some,
    folder_images,
    folder_size,
    image_batches,
    rounded,
)
from dfm_core.evaluation.measuring import interval, real_score
from dfm_core.evaluation.reference import reference_of_folder
from dfm_core.evaluation.reference_cache import ReferenceCache
from dfm_core.evaluation.reference_features import ReferenceFeatures
from dfm_core.evaluation.result_folder import results_in
from dfm_core.evaluation.sample_store import SampleStore, StoredSamples
from dfm_core.interfaces.metric import Metric
from dfm_core.model import Model, load
from dfm_core.plugins.registry import Registry
from dfm_core.training.distributed import World
from dfm_plugins.metrics.classifier import ClassifierFeatures

QUICK = {"spectrum": {"resamples": 5}, "fd": {"steps": 5, "resamples": 5, "training_images": 64}}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on `shapes` at 16 pixels."""
    path = tmp_path_factory.mktemp("evaluation") / "run"
    train(
        quiet=True,
        stages=["8", "16"],
        max_steps=2,
        batch_size=4,
        device="cpu",
        output=str(path),
        backbone={"name": "dit", "options": {"depth": 1, "width": 16, "heads": 1}},
        flow={"statistics_images": 8},
        logging={"tensorboard": False, "validation_every": 0, "sample_every": 0},
    )
    return path


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    """The run's model, with a schedule of two steps a stage."""
    return load(trained, device="cpu").with_schedule(steps=[2, 2])


@pytest.fixture
def settings(tmp_path: Path) -> EvaluationSettings:
    """Quick metrics of 100 samples, with a cache of the test's own."""
    return EvaluationSettings(QUICK, num=100, reference_num=90, cache=tmp_path / "cache")


def write_images(folder: Path, count: int, seed: int, size: tuple[int, int] = (20, 24)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{index:03d}.png")
    return folder


def numbers(evaluation: Evaluation) -> list[dict[str, object]]:
    return [row.as_dict() for row in evaluation.rows]


def test_a_run_is_sampled_and_measured(model: Model, settings: EvaluationSettings, tmp_path: Path) -> None:
    with results_in(tmp_path / "out", World()) as keep:
        evaluation = evaluate_model(model, tmp_path / "samples", settings, World(), keep=keep)
    (row,) = evaluation.rows
    assert row.title == "cfg_1"
    assert [result.metric for result in row.results] == ["spectrum", "fd"]
    for result in row.results:
        assert (result.samples, result.reference) == (100, 90)
        assert result.real is not None
        assert result.real.images == 100  # beside the reference
        assert result.value > next(iter(result.real.values.values()))
        assert result.interval is not None
        assert result.interval[0] < result.value < result.interval[1]
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["rows"] == json.loads(json.dumps(numbers(evaluation)))
    assert written["rows"][0]["results"][1]["variant"]["network"] == "classifier of 8 classes"
    assert written["reference"]["dataset"]["name"] == "shapes"
    with Image.open(tmp_path / "out" / "grid_cfg_1.png") as grid:
        assert grid.size == (8 * 18 + 2, 8 * 18 + 2)
    with pytest.raises(UsageError, match="cannot make the folder"), results_in(tmp_path / "out", World()):
        pass


def test_what_is_measured_stays_when_the_next_fails(
    model: Model, settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from dfm_core.evaluation.evaluator import Evaluator

    measured, evaluate = [], Evaluator.evaluate

    def fails(self: Evaluator, samples: StoredSamples, broken: int) -> object:
        if measured:
            raise Killed
        measured.append(samples)
        return evaluate(self, samples, broken)

    monkeypatch.setattr(Evaluator, "evaluate", fails)
    asked = replace(settings, cfg=[1.0, 2.0], metrics={"spectrum": {}}, num=20)
    with pytest.raises(Killed), results_in(tmp_path / "out", World()) as keep:
        evaluate_model(model, tmp_path / "samples", asked, World(), keep=keep)
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert row["title"] == "cfg_1"
    with pytest.raises(Killed), results_in(tmp_path / "none" / "0001", World()):
        raise Killed
    assert not (tmp_path / "none").exists()


def test_the_samples_are_those_of_the_model(model: Model, settings: EvaluationSettings, tmp_path: Path) -> None:
    evaluation = evaluate_model(model, tmp_path, settings, World())
    samples = evaluation.rows[0].samples
    expected = rounded(model.generate(70, seed=0, cfg=1.0))
    for index in (0, 63, 64, 69):
        sample = samples.load(index, 0)
        assert torch.equal(torch.as_tensor(sample["image"]), expected[index])
        assert sample["label"] == index % 8


class Killed(Exception):
    """Stands for the end of the process."""


@dataclass
class Dying:
    """Counts the images that a model makes, and dies before the next batch when there have been too many."""

    monkeypatch: pytest.MonkeyPatch
    most: int = 10**9
    made: int = 0

    def watch(self, model: Model) -> None:
        stream = model.stream

        def counted(num: int, **more: object) -> Iterator[object]:
            if self.made >= self.most:
                raise Killed
            self.made += num
            return stream(num, **more)  # type: ignore[arg-type]

        self.monkeypatch.setattr(model, "stream", counted)


def test_killed_and_resumed_gives_the_same_number_and_no_image_twice(
    model: Model, settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate_model(model, tmp_path / "whole", settings, World())
    dying = Dying(monkeypatch, most=64)
    dying.watch(model)
    with pytest.raises(Killed):
        evaluate_model(model, tmp_path / "broken", settings, World())
    dying.most = 10**9
    resumed = evaluate_model(model, tmp_path / "broken", settings, World())
    assert dying.made == 100
    assert numbers(resumed) == numbers(expected)
    evaluate_model(model, tmp_path / "broken", settings, World())
    assert dying.made == 100


def test_more_samples_make_only_what_is_missing(
    model: Model, settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    dying = Dying(monkeypatch)
    dying.watch(model)
    small = replace(settings, num=40, metrics={"spectrum": {"resamples": 0}})
    first = evaluate_model(model, tmp_path, small, World())
    evaluate_model(model, tmp_path, replace(small, num=130), World())
    assert dying.made == 130
    names = sorted(path.stem for path in tmp_path.glob("*/*.safetensors"))
    assert names == [
        "00000000-00000040",
        "00000040-00000064",
        "00000064-00000128",
        "00000128-00000130",
    ]
    again = evaluate_model(model, tmp_path, small, World())
    assert numbers(again) == numbers(first)


def test_the_seed_and_the_guidance_make_other_samples(
    model: Model, settings: EvaluationSettings, tmp_path: Path
) -> None:
    from dataclasses import replace

    quick = replace(settings, num=8, metrics={"spectrum": {"resamples": 0}})
    first = evaluate_model(model, tmp_path, quick, World())
    other = evaluate_model(model, tmp_path, replace(quick, seed=1, cfg=[1.0, 2.0]), World())
    values = [row.results[0].value for row in (*first.rows, *other.rows)]
    assert len(set(values[:2])) == 2
    assert [row.title for row in other.rows] == ["cfg_1", "cfg_2"]
    requests = [json.loads(path.read_text()) for path in tmp_path.glob("*/request.json")]
    assert sorted((request["seed"], request["cfg"]) for request in requests) == [(0, 1.0), (1, 1.0), (1, 2.0)]
    assert len({request["weights"] for request in requests}) == 1


def test_statistics_of_the_reference_are_computed_once(
    model: Model, settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate_model(model, tmp_path, settings, World())
    (tmp_path / "cache").mkdir(exist_ok=True)
    entries = sorted(path.name for path in (tmp_path / "cache").iterdir() if path.name != "locks")
    # fd: the classifier; features, spectrum: the reference and the real images beside it
    names = [name.rpartition("-")[0] for name in entries]
    assert names == ["fd", "features", "features", "spectrum", "spectrum"]
    described = [json.loads((tmp_path / "cache" / name / "description.json").read_text()) for name in entries[3:]]
    assert sorted(entry.get("after", 0) for entry in described) == [0, 90]
    for entry in described:
        assert entry["reference"]["used"] == 90
        assert entry["metric"]["options"] == {"bands": 4, "resamples": 5}
    shown: list[int] = []
    from dfm_plugins.metrics.spectrum import SpectrumDistance

    features = SpectrumDistance.features

    def counted(self: SpectrumDistance, batch: object) -> object:
        shown.append(len(batch.indices))  # type: ignore[attr-defined]
        return features(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(SpectrumDistance, "features", counted)
    again = evaluate_model(model, tmp_path, settings, World())
    assert sum(shown) == 100  # the samples alone
    assert numbers(again) == numbers(first)

    # Another process makes an entry while this one waits for it.
    made = (tmp_path / "cache").rename(tmp_path / "made")

    @contextmanager
    def making(self: ReferenceCache, description: Mapping[str, Any]) -> Iterator[None]:
        name = self.place(description).name
        if (made / name).is_dir():
            shutil.copytree(made / name, self.folder / name)
        yield

    monkeypatch.setattr(ReferenceCache, "making", making)
    monkeypatch.setattr(ClassifierFeatures, "prepare", None)
    shown.clear()
    third = evaluate_model(model, tmp_path, settings, World())
    assert sum(shown) == 100
    assert numbers(third) == numbers(first)


def test_where_no_lock_can_be_written_each_makes_its_own(tmp_path: Path) -> None:
    """A cache that may only be read has all that is wanted, or says so when something is stored."""
    (tmp_path / "cache").write_text("no folder")
    cache, description = ReferenceCache(tmp_path / "cache"), {"metric": {"name": "spectrum"}}
    with cache.making(description):
        pass
    with pytest.raises(DFMError, match="cannot write the reference statistics"):
        cache.store(description, {"a": torch.ones(2)})


def test_two_that_want_an_entry_make_it_one_after_the_other(tmp_path: Path) -> None:
    cache, description = ReferenceCache(tmp_path / "cache"), {"metric": {"name": "fd"}}
    began, order = threading.Event(), list[str]()

    def make() -> None:
        with cache.making(description):
            began.set()
            time.sleep(0.2)
            order.append("first")

    thread = threading.Thread(target=make)
    thread.start()
    assert began.wait(30)
    with cache.making({"metric": {"name": "another"}}):
        assert order == []
    with cache.making(description):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_other_data_is_another_key(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "real", 8, 0)
    keys = set()
    for change in ("nothing", "content", "number"):
        if change == "content":
            write_images(folder, 8, 5)
        if change == "number":
            write_images(folder, 9, 5)
        identity = reference_of_folder(folder_images(folder, (20, 24)), 100).identity
        keys.add(ReferenceCache(tmp_path).place({"metric": {"name": "a/b"}, "reference": identity}).name)
    assert len(keys) == 3
    assert all(key.startswith("a-b-") for key in keys)


def test_an_entry_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, description = ReferenceCache(tmp_path / "cache"), {"metric": {"name": "fd"}}
    with monkeypatch.context() as patch:
        patch.setattr("dfm_core.evaluation.reference_cache.write_json", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            cache.store(description, {"a": torch.ones(2)})
    assert cache.load(description) is None
    assert list((tmp_path / "cache").iterdir()) == []
    cache.store(description, {"a": torch.ones(2)})
    cache.store(description, {"a": torch.zeros(2)})  # another process was quicker
    assert torch.equal((cache.load(description) or {})["a"], torch.ones(2))
    (cache.place(description) / "tensors.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="remove that folder, and it is computed again"):
        cache.load(description)


def test_a_folder_against_a_folder(settings: EvaluationSettings, tmp_path: Path) -> None:
    from dataclasses import replace

    samples, real = write_images(tmp_path / "samples", 12, 0), write_images(tmp_path / "real", 20, 1, (40, 40))
    write_images(samples / "grids", 1, 3)
    (samples / "grids" / "000.png").rename(samples / "grid.png")
    asked = replace(settings, reference=real, metrics={"spectrum": {}}, num=None)
    evaluation = evaluate_folder(samples, asked, World())
    (result,) = evaluation.rows[0].results
    assert (result.samples, result.reference) == (12, 20)
    fewer = evaluate_folder(samples, replace(asked, num=5), World())
    assert fewer.rows[0].results[0].samples == 5
    with pytest.raises(DataError, match=r"expected at least 13 images in .*samples \(--num\), got 12"):
        evaluate_folder(samples, replace(asked, num=13), World())
    write_images(samples / "other", 1, 4, (8, 8))
    with pytest.raises(DataError, match=r"000\.png has 8 pixels, the first image 20x24"):
        evaluate_folder(samples, asked, World())


def test_folders_have_classes_where_all_images_lie_in_some(tmp_path: Path) -> None:
    for index, name in enumerate(("cats", "dogs")):
        write_images(tmp_path / name, 2, index)
    images = folder_images(tmp_path, folder_size(tmp_path))
    assert images.classes == ("cats", "dogs")
    assert [images.load(index, 0)["label"] for index in range(4)] == [0, 0, 1, 1]
    assert sorted(Some(images, 4).load(index, 0)["label"] for index in range(4)) == [0, 0, 1, 1]
    write_images(tmp_path, 1, 7)
    assert folder_images(tmp_path, (20, 24)).classes == ()
    with pytest.raises(DataError, match="expected a folder of images"):
        folder_images(tmp_path / "nowhere", (8, 8))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in"):
        folder_images(tmp_path / "empty", (8, 8))


def test_broken_images_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "real", 20, 0)
    (folder / "007.png").write_bytes(b"broken")
    told: list[str] = []
    images = folder_images(folder, (20, 24))
    batches = list(image_batches(images, range(20), device=CPU, warn=told.append))
    assert [index for batch in batches for index in batch.indices] == [i for i in range(20) if i != 7]
    assert len(told) == 1
    assert "007.png" in told[0]
    for index in range(3):
        (folder / f"00{index}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="unreadable, expected at most a tenth"):
        list(image_batches(images, range(20), device=CPU, warn=told.append))


def test_sets_of_other_sizes_are_refused(settings: EvaluationSettings, tmp_path: Path) -> None:
    from dfm_core.evaluation.evaluator import Evaluator

    real = folder_images(write_images(tmp_path / "real", 4, 0), (20, 24))
    other = folder_images(write_images(tmp_path / "other", 4, 0), (8, 8))
    reference = reference_of_folder(real, 10)
    evaluator = Evaluator({"spectrum": {}}, reference, Registry.discover({}), World(), cache=ReferenceCache(tmp_path))
    with pytest.raises(CompositionError, match=r"the reference has pixels \(20, 24\) and the samples \(8, 8\)"):
        evaluator.evaluate(other)


def test_gaps_are_found_within_blocks(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, {"a": 1}, (8, 8))
    store.folder.mkdir(parents=True)
    assert [(part.start, part.stop) for part in store.missing(130)] == [(0, 64), (64, 128), (128, 130)]
    for name in ("00000010-00000020", "00000064-00000128"):
        (store.folder / f"{name}.safetensors").touch()
    assert [(part.start, part.stop) for part in store.missing(130)] == [(0, 10), (20, 64), (128, 130)]
    assert store.missing(0) == []


def test_a_broken_file_of_samples_is_named(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, {"a": 1}, (8, 8))
    store.folder.mkdir(parents=True)
    (store.folder / "00000000-00000002.safetensors").write_bytes(b"no samples")
    with pytest.raises(DataError, match="remove the file and evaluate again"):
        StoredSamples(store, 2, ())


def test_the_interval_is_about_as_wide_as_the_scatter_of_other_draws() -> None:
    """Mean of n normal numbers: ± 1.96/√n."""
    metric = MeanOnly()
    generator = torch.Generator().manual_seed(0)
    samples = {"x": torch.randn(400, 1, generator=generator, dtype=torch.float64)}
    value = metric.against({})(samples)["mean"]
    low, high = interval(metric.against({}), samples, value, 400) or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.15)
    assert low < value < high
    assert interval(metric.against({}), samples, value, 0) is None


class MeanOnly:
    """The part of a metric that is asked for numbers."""

    def against(self, reference: object):
        return lambda samples: {"mean": float(samples["x"].mean())}


def test_real_images_are_taken_out_of_the_reference() -> None:
    class Counting(MeanOnly):
        def against(self, reference: dict[str, torch.Tensor]):
            return lambda samples: {"rest": float(len(reference["x"])), "taken": float(len(samples["x"]))}

    metric: Metric = Counting()  # type: ignore[assignment]
    found = real_score(metric, ReferenceFeatures({"x": torch.zeros(10, 1)}), {}, 3)
    assert found is not None
    assert (found.values, found.images) == ({"rest": 7.0, "taken": 3.0}, 3)
    half = real_score(metric, ReferenceFeatures({"x": torch.zeros(10, 1)}), {}, 50)
    assert half is not None
    assert half.images == 5
    assert real_score(metric, ReferenceFeatures({"x": torch.zeros(3, 1)}), {}, 50) is None
    few = real_score(metric, ReferenceFeatures({"x": torch.zeros(10, 1)}, {"sum": torch.zeros(1)}, 90), {}, 50)
    assert few is not None
    assert (few.values, few.images) == ({"rest": 2.0, "taken": 8.0}, 8)
    beside = real_score(metric, ReferenceFeatures({"x": torch.zeros(10, 1)}), {"x": torch.zeros(30, 1)}, 20)
    assert beside is not None
    assert (beside.values, beside.images) == ({"rest": 10.0, "taken": 20.0}, 20)


class Meeting:
    """Two worlds in two threads that gather through a barrier, as processes do through gloo."""

    def __init__(self, size: int) -> None:
        self.barrier, self.values = threading.Barrier(size), [None] * size

    def gather(self, index: int, value: object) -> list[object]:
        self.values[index] = json.loads(json.dumps(value))
        self.barrier.wait(60)
        everything = list(self.values)
        self.barrier.wait(60)
        return everything


@dataclass(frozen=True)
class ThreadWorld(World):
    """A process of a meeting."""

    meeting: Meeting | None = None

    def gather(self, value: object) -> list[object]:
        assert self.meeting is not None
        return self.meeting.gather(self.index, value)


def test_two_processes_share_the_work_and_give_the_same_numbers(
    model: Model, trained: Path, settings: EvaluationSettings, tmp_path: Path
) -> None:
    expected = evaluate_model(model, tmp_path / "one", settings, World())
    shutil.rmtree(tmp_path / "cache")
    meeting, found = Meeting(2), {}
    models = [load(trained, device="cpu").with_schedule(steps=[2, 2]) for _ in range(2)]

    def work(index: int) -> None:
        world = ThreadWorld(index, 2, meeting=meeting)
        found[index] = evaluate_model(models[index], tmp_path / "two", settings, world)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert numbers(found[0]) == numbers(expected)
    assert found[1].rows[0].results == []
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]
    assert os.listdir(tmp_path / "one") == os.listdir(tmp_path / "two")
