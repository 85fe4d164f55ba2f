"""Features of an evaluation: metrics of one network share them, and of a large reference most are condensed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dfm_core.evaluation.evaluator import Evaluator, Metrics
from dfm_core.evaluation.extraction import parts_of
from dfm_core.evaluation.measuring import MetricResult
from dfm_core.evaluation.reference import Reference
from dfm_core.evaluation.reference_cache import ReferenceCache
from dfm_core.evaluation.reference_features import ReferenceFeatures, gathered
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from dfm_core.interfaces.metric import ImageBatch
from dfm_core.plugins import Options
from dfm_core.plugins.registry import Registry
from dfm_core.training.distributed import World
from dfm_plugins.metrics.classifier import ClassifierFeatures

REGISTRY = Registry.discover({})
CLASSIFIER = {"steps": 2, "training_images": 64}
FD = {"fd": {**CLASSIFIER, "resamples": 2}}
BOTH: Metrics = {**FD, "precision_recall": {**CLASSIFIER, "images": 80}}


class Noise(Dataset):
    """Images of 16 pixels, each of a brightness and a contrast of its own."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__(Options(), DatasetFacts((16, 16), "train", seed))
        self._count = count

    @property
    def classes(self) -> tuple[str, ...]:
        return ("dim", "bright")

    def __len__(self) -> int:
        return self._count

    def load(self, index: int, epoch: int) -> Sample:
        generator = torch.Generator().manual_seed(1000 * self.facts.seed + index)
        level, contrast = torch.rand(2, generator=generator)
        noise = torch.randn(3, 16, 16, generator=generator)
        return {"image": (level - 0.5 + 0.3 * contrast * noise).clamp(-1, 1), "label": int(level > 0.5)}


def evaluated(metrics: Metrics, cache: Path, world: World | None = None, real: int = 150) -> list[MetricResult]:
    """100 samples against some real images."""
    reference = Reference(Noise(real, 0), {"set": "noise"}, real)
    evaluator = Evaluator(metrics, reference, REGISTRY, world or World(), cache=ReferenceCache(cache))
    return evaluator.evaluate(Noise(100, 1))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the classifier described at each call."""
    numbers, describe = [], ClassifierFeatures.__call__

    def counted(self: ClassifierFeatures, batch: ImageBatch) -> torch.Tensor:
        numbers.append(len(batch.images))
        return describe(self, batch)

    monkeypatch.setattr(ClassifierFeatures, "__call__", counted)
    return numbers


@pytest.fixture
def few_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reference, 64 rows are kept, and the others condensed 64 at a time."""
    monkeypatch.setattr("dfm_plugins.metrics.frechet.MOST_KEPT", 64)
    monkeypatch.setattr("dfm_core.evaluation.extraction._BLOCKS_AT_ONCE", 1)


def test_metrics_of_one_network_see_images_once_and_say_the_same_as_alone(seen: list[int], tmp_path: Path) -> None:
    together = evaluated(BOTH, tmp_path / "together", real=80)
    assert sum(seen) == 80 + 100
    alone = [result for name in BOTH for result in evaluated({name: BOTH[name]}, tmp_path / name, real=80)]
    assert [result.as_dict() for result in together] == [result.as_dict() for result in alone]
    assert [result.samples for result in together] == [100, 80]


def test_other_options_of_the_network_share_nothing(seen: list[int], tmp_path: Path) -> None:
    evaluated({**FD, "precision_recall": {**CLASSIFIER, "seed": 1}}, tmp_path, real=80)
    assert sum(seen) == 2 * (80 + 100)


def test_a_condensed_reference_gives_the_same_distance(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (whole,) = evaluated(FD, tmp_path / "whole")
    request.getfixturevalue("few_kept")
    (condensed,), (again,) = (evaluated(FD, tmp_path / "condensed") for _ in range(2))
    assert condensed.value == pytest.approx(whole.value, rel=1e-6)
    assert condensed.reference == whole.reference == 150
    assert condensed.real is not None
    assert condensed.real.images == 62  # two are left with those that were condensed
    assert again.as_dict() == condensed.as_dict()
    (file,) = (tmp_path / "condensed").glob("features-*/tensors.safetensors")
    tensors = load_file(file)
    assert tensors["features"].shape == (64, 64)
    assert int(tensors["condensed images"]) == int(tensors["condensed/count"]) == 150 - 64


@pytest.mark.usefixtures("few_kept")
def test_two_processes_condense_to_the_same_bits(tmp_path: Path) -> None:
    expected = [result.as_dict() for result in evaluated(BOTH, tmp_path / "one")]
    barrier, values, found = threading.Barrier(2), [None, None], {}

    class ThreadWorld(World):
        def gather(self, value: object) -> list[object]:
            values[self.index] = value  # type: ignore[call-overload]
            barrier.wait(60)
            everything: list[object] = list(values)
            barrier.wait(60)
            return everything

    def work(index: int) -> None:
        found[index] = evaluated(BOTH, tmp_path / "two", ThreadWorld(index, 2))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [result.as_dict() for result in found[0]] == expected
    assert found[1] == []


def test_the_first_part_is_kept_and_the_others_are_whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfm_core.evaluation.extraction._BLOCKS_AT_ONCE", 2)

    def ends(total: int, kept: int | None, *size: int) -> list[int]:
        return [part.stop for part in parts_of(total, kept, size)]

    assert ends(300, None, 8, 8) == [300]
    assert ends(300, 300, 8, 8) == [300]
    assert ends(300, 65, 8, 8) == [128, 256, 300]
    assert ends(300, 1, 8, 8) == [64, 192, 300]
    assert ends(20, 9, 4, 8, 8) == [16, 20]


def test_parts_without_a_readable_image_are_passed_over() -> None:
    class Adding:
        def condense(self, rows: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"sum": state.get("sum", torch.zeros(())) + rows["x"].sum()}

    def parts() -> Iterator[dict[str, torch.Tensor]]:
        yield from ({}, {"x": torch.ones(2)}, {}, {"x": torch.ones(3)}, {"x": torch.ones(4)})

    found = gathered(Adding(), parts())  # type: ignore[arg-type]
    assert (found.count, found.others, found.given["sum"].item()) == (9, 7, 7)
    again = ReferenceFeatures.from_tensors(found.tensors())
    assert again.others == 7
    assert {name: value.tolist() for name, value in again.given.items()} == {"x": [1, 1], "sum": 7}
