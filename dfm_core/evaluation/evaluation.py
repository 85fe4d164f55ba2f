"""A model, a run or a folder of images, measured: the samples, their numbers, and both on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dfm_core.errors import UsageError
from dfm_core.evaluation.evaluator import Evaluator, Metrics, Reference, reference_of_folder, reference_of_run
from dfm_core.evaluation.image_sets import Some, folder_images, folder_size
from dfm_core.evaluation.measuring import MetricResult
from dfm_core.evaluation.reference_cache import ReferenceCache, default_cache
from dfm_core.evaluation.run_samples import generate_samples
from dfm_core.gallery import grid_columns
from dfm_core.images import make_grid, save_png
from dfm_core.interfaces.dataset import Dataset, Split
from dfm_core.latent_shards import write_json
from dfm_core.media import check_measurable
from dfm_core.model import Model
from dfm_core.plugins.registry import Registry, default_registry
from dfm_core.training.distributed import World

GRID_IMAGES = 64
RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured.

    num: samples; of a folder None is all. cfg: guidance weights, each evaluated; None: the run's. solver, batch_size:
    None: the run's. reference: folder of real images, None: the data that the run names, of the part `split`.
    reference_num: how many real images at most. cache: where statistics of the reference are kept, None: the user's
    cache. workers: processes that load images.
    """

    metrics: Metrics
    num: int | None = 1000
    cfg: Sequence[float] | None = None
    seed: int = 0
    solver: str | None = None
    batch_size: int | None = None
    reference: Path | None = None
    reference_num: int = 10_000
    split: Split = "train"
    cache: Path | None = None
    workers: int = 0


@dataclass(frozen=True)
class Voice:
    """Who is told. say: what is being done. warn: of unreadable images. progress: (made, to be made) samples."""

    say: Callable[[str], None] = lambda message: None
    warn: Callable[[str], None] = lambda message: None
    progress: Callable[[int, int], None] = lambda made, total: None


@dataclass(frozen=True)
class EvaluatedSamples:
    """One set of samples. title: names its grid. made_with: all that its images depend on, in plain data."""

    title: str
    made_with: Mapping[str, Any]
    samples: Dataset
    results: list[MetricResult]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        results = [result.as_dict() for result in self.results]
        return {"title": self.title, "made_with": dict(self.made_with), "results": results}


@dataclass(frozen=True)
class Evaluation:
    """All sets of samples of one evaluation, and the reference that they were measured against."""

    reference: Mapping[str, Any]
    rows: list[EvaluatedSamples] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"reference": dict(self.reference), "rows": [row.as_dict() for row in self.rows]}

    def write(self, folder: Path) -> None:
        """Write results.json and a grid of the first samples of each set. Raises UsageError if the folder exists."""
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {folder}: {error.strerror}; choose another --output") from error
        for row in self.rows:
            shown = min(GRID_IMAGES, len(row.samples))
            images = torch.stack([torch.as_tensor(row.samples.load(index, 0)["image"]) for index in range(shown)])
            columns = grid_columns(shown, min(len(row.samples.classes), shown))
            save_png(folder / f"grid_{row.title}.png", make_grid(images, columns))
        write_json(folder / RESULTS_FILE, self.as_dict())


def evaluate_model(
    model: Model,
    root: Path,
    settings: EvaluationSettings,
    world: World,
    registry: Registry | None = None,
    voice: Voice | None = None,
) -> Evaluation:
    """Sample a model with every guidance weight, and measure. All processes of a world must call.

    root: folder in which samples are kept; those that are there are not made again. Raises CompositionError for a model
    of clips.
    """
    check_measurable(model.composition.config)
    voice, sampling = voice or Voice(), model.composition.config.sampling
    reference = _reference_of_model(model, settings)
    evaluator = _evaluator(reference, settings, world, registry, voice)
    rows = []
    for weight in settings.cfg or [sampling.cfg]:
        voice.say(f"cfg {weight:g}: sampling …")
        samples, request = generate_samples(
            model,
            root,
            settings.num or 0,
            world,
            cfg=weight,
            seed=settings.seed,
            solver=settings.solver or sampling.solver,
            batch_size=settings.batch_size or sampling.batch_size,
            report=voice.progress,
        )
        rows.append(EvaluatedSamples(f"cfg_{weight:g}", request, samples, evaluator.evaluate(samples)))
    return Evaluation(reference.identity, rows)


def evaluate_folder(
    folder: Path,
    settings: EvaluationSettings,
    world: World,
    registry: Registry | None = None,
    voice: Voice | None = None,
) -> Evaluation:
    """Measure the images of a folder, all of one size, against those of `settings.reference`, fitted to that size."""
    if settings.reference is None:
        raise UsageError("a folder of samples needs real images to compare with: --reference FOLDER")
    size = folder_size(folder)
    whole = folder_images(folder, size, exact=True)
    reference = reference_of_folder(folder_images(settings.reference, size), settings.reference_num)
    evaluator = _evaluator(reference, settings, world, registry, voice or Voice())
    samples = Some(whole, settings.num)
    made_with = {"folder": str(folder), "listing": whole.listing}
    row = EvaluatedSamples("samples", made_with, samples, evaluator.evaluate(samples))
    return Evaluation(reference.identity, [row])


def _reference_of_model(model: Model, settings: EvaluationSettings) -> Reference:
    if settings.reference is None:
        return reference_of_run(model.assembler, settings.split, settings.reference_num)
    size = model.composition.config.stages[-1]
    return reference_of_folder(folder_images(settings.reference, size), settings.reference_num)


def _evaluator(
    reference: Reference, settings: EvaluationSettings, world: World, registry: Registry | None, voice: Voice
) -> Evaluator:
    return Evaluator(
        settings.metrics,
        reference,
        registry or default_registry(),
        world,
        cache=ReferenceCache(settings.cache or default_cache()),
        workers=settings.workers,
        say=voice.say,
        warn=voice.warn,
    )
