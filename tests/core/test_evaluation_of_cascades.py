"""The first run of a cascade makes small images: real ones are shown at its stage before they are measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dfm_core as dfm
from dfm_core.errors import CompositionError
from dfm_core.evaluation.evaluation import EvaluationSettings, Voice, evaluate_model, reference_of_model
from dfm_core.evaluation.evaluator import Evaluator
from dfm_core.evaluation.image_sets import folder_images, image_batches, rounded
from dfm_core.evaluation.reference import reference_of_folder
from dfm_core.evaluation.reference_cache import ReferenceCache
from dfm_core.model import Model
from dfm_core.plugins.registry import Registry
from dfm_core.training.distributed import World


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A run of one step at 8 of 8 and 16 pixels."""
    return dfm.train(
        preset="cascaded",
        quiet=True,
        stages=[8, 16],
        max_steps=1,
        batch_size=2,
        device="cpu",
        output=str(tmp_path_factory.mktemp("cascade") / "first"),
        backbone={"options": {"depth": 1, "width": 16, "heads": 1}},
        flow={"statistics_images": 8},
        logging={"tensorboard": False, "sample_every": 0, "validation_every": 0},
    ).with_schedule(steps=[1])


@pytest.fixture
def settings(tmp_path: Path) -> EvaluationSettings:
    """Metrics that see sizes and classes, with a cache of the test's own."""
    metrics = {"spectrum": {"resamples": 0}, "fd": {"steps": 1, "resamples": 0}}
    return EvaluationSettings(metrics, num=10, reference_num=12, cache=tmp_path / "cache")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve images of noise."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


def test_it_is_measured_at_the_size_that_it_makes(
    first: Model, settings: EvaluationSettings, photos: Path, tmp_path: Path
) -> None:
    assert (first.composition.generated_stages, first.composition.generated_size) == (1, (8, 8))
    for reference in (None, photos):
        said: list[str] = []
        asked, voice = replace(settings, reference=reference), Voice(say=said.append)
        evaluation = evaluate_model(first, tmp_path / "samples", asked, World(), voice=voice)
        (row,) = evaluation.rows
        assert said[0] == "this run ends with stage 1 of 2, 8 pixels: real images are shown at it, too"
        assert evaluation.reference["size"] == [8, 8]
        assert evaluation.reference["shown as"]["of"] == [16, 16]
        assert evaluation.reference["shown as"]["decomposition"]["name"] == "downsampled"
        assert torch.as_tensor(row.samples.load(0, 0)["image"]).shape == (3, 8, 8)
        assert [(result.samples, result.reference) for result in row.results] == [(10, 12)] * 2
        assert row.results[0].variant["bands"] == 3  # of 16 pixels it would be 4


@pytest.mark.parametrize("of_a_folder", [False, True])
def test_real_images_are_what_its_stage_holds(
    of_a_folder: bool, first: Model, settings: EvaluationSettings, photos: Path
) -> None:
    reference = reference_of_model(first, replace(settings, reference=photos if of_a_folder else None))
    cpu, indices = torch.device("cpu"), reference.indices
    (shown,) = image_batches(reference.dataset, indices, device=cpu, shown=reference.shown)
    images = torch.stack([torch.as_tensor(reference.dataset.load(index, 0)["image"]) for index in indices])
    assert images.shape == (12, 3, 16, 16)
    torch.testing.assert_close(shown.images, rounded(torch.nn.functional.avg_pool2d(images, 2)), atol=0.008, rtol=0)


def test_against_images_of_the_last_stage_it_is_refused(first: Model, photos: Path, tmp_path: Path) -> None:
    """As a comparison would find it: its real images are those of all variants."""
    from dfm_core.evaluation.run_samples import generate_samples

    wanted = {"cfg": 1.0, "seed": 0, "solver": "euler", "batch_size": 2}
    samples, _ = generate_samples(first, tmp_path, 2, World(), **wanted)  # type: ignore[arg-type]
    reference = reference_of_folder(folder_images(photos, (16, 16)), 12)
    evaluator = Evaluator({"swd": {}}, reference, Registry.discover({}), World(), cache=ReferenceCache(tmp_path))
    with pytest.raises(CompositionError, match=r"the reference has pixels \(16, 16\) and the samples \(8, 8\)"):
        evaluator.evaluate(samples)
