"""Which images an evaluation measures: the order of folders, real images held out, data that has changed, stores."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dfm_core.errors import DFMError, UsageError
from dfm_core.evaluation.evaluation import EvaluationSettings, evaluate_folder
from dfm_core.evaluation.evaluator import Evaluator
from dfm_core.evaluation.image_sets import Some, folder_images
from dfm_core.evaluation.reference import Reference, reference_of_folder
from dfm_core.evaluation.reference_cache import ReferenceCache
from dfm_core.evaluation.sample_store import SampleStore, StoredSamples
from dfm_core.interfaces.dataset import Dataset, DatasetFacts
from dfm_core.interfaces.metric import Metric
from dfm_core.plugins.registry import Registry
from dfm_core.training.distributed import World
from dfm_plugins.datasets.folder import Folder
from dfm_plugins.datasets.specs import FolderOptions

REGISTRY = Registry.discover({})
SIZE = (16, 16)


def write_images(folder: Path, count: int, seed: int, level: int = 128) -> Path:
    """Noise of 16 pixels around a level."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        pixels = np.clip(level + generator.integers(-60, 60, (*SIZE, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> EvaluationSettings:
    """Spectra, with a cache of the test's own."""
    return EvaluationSettings({"spectrum": {"resamples": 0}}, num=None, cache=tmp_path / "cache")


def values(evaluation: object) -> dict[str, float]:
    """Numbers of all metrics of the only set of samples."""
    (row,) = evaluation.rows  # type: ignore[attr-defined]
    return {result.metric: result.value for result in row.results}


def test_of_a_folder_in_classes_a_metric_with_a_limit_takes_all_classes(
    settings: EvaluationSettings, tmp_path: Path
) -> None:
    """The same images, sorted by class and taking turns, are the same set."""
    for root in ("sorted", "real"):
        for number, level in enumerate((70, 180)):
            write_images(tmp_path / root / f"class_{number}", 60, 10 * number + len(root), level)
    turns = tmp_path / "turns"
    turns.mkdir()
    for place, path in enumerate(sorted((tmp_path / "sorted").rglob("*.png"))):
        (turns / f"{place % 60:03d}-{place // 60}.png").write_bytes(path.read_bytes())
    options = {"images": 60, "network": "classifier", "steps": 5, "training_images": 64}
    asked = replace(settings, metrics={"precision_recall": options}, reference=tmp_path / "real")
    found = [
        values(evaluate_folder(tmp_path / name, asked, World()))["precision_recall"] for name in ("sorted", "turns")
    ]
    assert abs(found[0] - found[1]) < 0.15
    labels = [
        Some(folder_images(tmp_path / "sorted", SIZE), count).load(index, 0)["label"]
        for count in (20, None)
        for index in range(20)
    ]
    assert 10 < sum(map(int, labels)) < 30
    assert sorted(Some(folder_images(tmp_path / "sorted", SIZE), None)._places) == list(range(120))


def evaluator(dataset: Dataset, most: int, cache: Path, **options: object) -> Evaluator:
    return Evaluator(
        {"spectrum": {"resamples": 0, **options}},
        Reference(dataset, {"set": "test"}, most),
        REGISTRY,
        World(),
        cache=ReferenceCache(cache),
    )


def test_real_images_beside_the_reference_are_measured_against_all_of_it(tmp_path: Path) -> None:
    """As many as there are samples: only where there are none are they taken out of the reference."""
    real = folder_images(write_images(tmp_path / "real", 50, 0), SIZE)
    samples = folder_images(write_images(tmp_path / "samples", 16, 1), SIZE)

    def scored(most: int) -> tuple[int, int, float]:
        (result,) = evaluator(real, most, tmp_path / "cache").evaluate(samples)
        assert result.real is not None
        return result.reference, result.real.images, result.real.values["spectrum"]

    assert scored(32)[:2] == (32, 16)  # taken out: 16 are half of it
    reference, images, value = scored(20)
    assert (reference, images) == (20, 16)  # beside it: 30 others
    assert scored(20)[2] == value  # from the cache
    assert scored(45)[:2] == (45, 16)
    few = folder_images(write_images(tmp_path / "few", 22, 0), SIZE)
    (result,) = evaluator(few, 20, tmp_path / "cache").evaluate(samples)
    assert result.real is not None
    assert result.real.images == 10  # two others: half of the reference is more
    metric: Metric = evaluator(real, 20, tmp_path / "cache").metrics["spectrum"]
    order = Reference(real, {}, 20).order(50)
    assert len(set(order)) == 50
    powers = [
        metric.features(batch)["power"] for indices in (order[:20], order[20:36]) for batch in [_batch(real, indices)]
    ]
    assert metric.against({"power": powers[0]})({"power": powers[1]})["spectrum"] == value


def _batch(dataset: Dataset, indices: list[int]):
    from dfm_core.evaluation.image_sets import image_batches

    return next(image_batches(dataset, indices, device=torch.device("cpu")))


def test_a_perfect_model_scores_like_real_images(tmp_path: Path) -> None:
    """Where they are beside the reference, neither is better than the other, on average."""
    total = [0.0, 0.0]
    for seed in range(6):
        real = folder_images(write_images(tmp_path / f"real-{seed}", 80, seed), SIZE)
        samples = folder_images(write_images(tmp_path / f"samples-{seed}", 40, 100 + seed), SIZE)
        (result,) = evaluator(real, 40, tmp_path / "cache").evaluate(samples)
        assert result.real is not None
        total[0] += result.value
        total[1] += result.real.values["spectrum"]
    assert 0.6 < total[0] / total[1] < 1.6


def identity(root: Path, probed: int = 100) -> dict[str, object]:
    dataset = Folder(FolderOptions(path=str(root)), DatasetFacts(SIZE, "train", 0))
    return Reference(dataset, {"set": "test"}, probed).identity


def test_data_that_has_changed_is_another_reference(tmp_path: Path) -> None:
    """Also where the images that are probed stay, and where only the classes move."""
    root = write_images(tmp_path / "real", 40, 0)
    before = identity(root)
    assert identity(root) == before
    probed = {
        Path(f"{index:03d}.png").name
        for index in Reference(Folder(FolderOptions(path=str(root)), DatasetFacts(SIZE, "train", 0)), {}, 100).indices[
            :8
        ]
    }
    other = next(path for path in sorted(root.iterdir()) if path.name not in probed)
    Image.new("RGB", SIZE).save(other)
    changed = identity(root)
    assert changed["probe"] == before["probe"]
    assert changed != before
    for name in ("cats", "dogs"):
        (root / name).mkdir()
    for place, path in enumerate(sorted(root.glob("*.png"))):
        path.rename(root / ("cats" if place < 20 else "dogs") / path.name)
    assert identity(root)["classes"] != before["classes"]


def test_a_broken_image_among_the_first_is_passed_over(tmp_path: Path) -> None:
    root = write_images(tmp_path / "real", 40, 0)
    images = folder_images(root, SIZE)
    first = reference_of_folder(images, 40).indices[0]
    (root / f"{first:03d}.png").write_bytes(b"broken")
    probe = reference_of_folder(images, 40)._probe()
    assert probe["images"].shape == (8, 3, *SIZE)


def test_one_class_is_no_class_for_the_classifier(tmp_path: Path) -> None:
    """Images in one sub-folder: the network learns how they are turned, as without labels."""
    write_images(tmp_path / "celebrities" / "all", 24, 0)
    real = folder_images(tmp_path / "celebrities", SIZE)
    assert real.classes == ("all",)
    options = {"fd": {"steps": 2, "training_images": 16, "resamples": 0}}
    reference = Reference(real, {"set": "one class"}, 24)
    found = Evaluator(options, reference, REGISTRY, World(), cache=ReferenceCache(tmp_path / "cache"))
    (result,) = found.evaluate(Some(real, 10))
    assert result.variant["network"] == "classifier of quarter turns of unlabelled images"


def test_too_few_images_and_missing_labels_are_refused_before_anything_is_described(tmp_path: Path) -> None:
    told: list[str] = []
    real = folder_images(write_images(tmp_path / "real", 20, 0), SIZE)
    few = folder_images(write_images(tmp_path / "few", 3, 0), SIZE)
    metrics = {"spectrum": {}, "precision_recall": {"steps": 2}}
    made = Evaluator(
        metrics, reference_of_folder(real, 20), REGISTRY, World(), cache=ReferenceCache(tmp_path), say=told.append
    )
    with pytest.raises(UsageError, match=r"precision_recall: expected more than 3 images of either set, got 3 \(samp"):
        made.evaluate(few)
    made.metrics["spectrum"].needs_labels = True
    with pytest.raises(UsageError, match="spectrum: expected images with the labels of the reference, got samples wit"):
        made.evaluate(real)
    assert told == []


def test_where_the_cache_cannot_be_written_the_numbers_come_all_the_same(
    settings: EvaluationSettings, tmp_path: Path
) -> None:
    from dfm_core.evaluation.evaluation import Voice

    (tmp_path / "cache").write_text("no folder")
    told: list[str] = []
    real, samples = write_images(tmp_path / "real", 20, 0), write_images(tmp_path / "samples", 12, 1)
    asked = replace(settings, reference=real)
    found = evaluate_folder(samples, asked, World(), voice=Voice(warn=told.append))
    assert any("cannot write the reference statistics" in message for message in told)
    assert values(found) == values(evaluate_folder(samples, replace(asked, cache=tmp_path / "other"), World()))


def test_two_commands_that_want_the_same_images_make_each_once(tmp_path: Path) -> None:
    """One waits for the other; files that overlap, of former versions, are read all the same."""
    stores = [SampleStore(tmp_path, {"seed": 0}, (4, 4)) for _ in range(2)]
    made: list[range] = []
    began = threading.Event()

    def generate(part: range) -> tuple[torch.Tensor, None]:
        made.append(part)
        began.set()
        time.sleep(0.1)
        return torch.arange(part.start, part.stop).float().reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4) / 200, None

    first = threading.Thread(target=stores[0].fill, args=(100, generate, World(), lambda made, total: None))
    first.start()
    assert began.wait(30)
    stores[1].fill(130, generate, World(), lambda made, total: None)
    first.join()
    assert sorted(index for part in made for index in part) == list(range(130))
    whole = StoredSamples(stores[1], 130, ())
    expected = [whole.load(index, 0)["image"] for index in range(130)]
    stores[0]._write(range(64, 70), generate(range(64, 70))[0], None)
    again = StoredSamples(stores[0], 130, ())
    assert all(torch.equal(again.load(index, 0)["image"], image) for index, image in enumerate(expected))  # type: ignore[arg-type]


def test_a_folder_in_which_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = SampleStore(tmp_path / "file", {"seed": 0}, (4, 4))
    with pytest.raises(DFMError, match="cannot write into"):
        store.fill(1, lambda part: (torch.zeros(1, 3, 4, 4), None), World(), lambda made, total: None)


def test_samples_that_are_no_numbers_are_counted_and_give_none(tmp_path: Path) -> None:
    """Also when they are taken from the store, where they are black."""
    store = SampleStore(tmp_path, {"seed": 0}, SIZE)

    def generate(part: range) -> tuple[torch.Tensor, None]:
        images = torch.rand(len(part), 3, *SIZE, generator=torch.Generator().manual_seed(part.start)) - 0.5
        images[:20] = torch.nan if part.start else images[:20]
        return images, None

    store.fill(128, generate, World(), lambda made, total: None)
    few, many = (StoredSamples(store, count, ()) for count in (64, 128))
    assert (few.broken, many.broken) == (0, 20)
    real = folder_images(write_images(tmp_path / "real", 20, 0), SIZE)
    made = evaluator(real, 20, tmp_path / "cache")
    for broken, is_number in ((12, True), (20, False)):
        (result,) = made.evaluate(many, broken)
        assert result.warnings == [f"{broken} of 128 images held numbers that are not finite, and are black"]
        assert np.isfinite(result.value) == is_number
        assert (result.as_dict()["values"]["spectrum"] is None) != is_number
    (result,) = made.evaluate(few, few.broken)
    assert result.warnings == []
