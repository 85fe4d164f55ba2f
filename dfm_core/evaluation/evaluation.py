"""A model, a run or a folder of images or clips, measured: the samples, their numbers, and both on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dfm_core.clips import DEFAULT_FRAME_RATE
from dfm_core.errors import UsageError
from dfm_core.evaluation.clip_sets import folder_clip_size, folder_set
from dfm_core.evaluation.evaluator import Evaluator, Metrics
from dfm_core.evaluation.image_sets import FolderImages, Some, folder_size
from dfm_core.evaluation.measuring import MetricResult
from dfm_core.evaluation.reference import Reference, View, reference_of_folder, reference_of_run
from dfm_core.evaluation.reference_cache import ReferenceCache, default_cache
from dfm_core.evaluation.run_samples import generate_samples
from dfm_core.evaluation.sample_pictures import save_pictures
from dfm_core.interfaces.dataset import Dataset, Split
from dfm_core.latent_shards import write_json
from dfm_core.media import PLURAL, check_metrics_fit, measured_medium, measured_size
from dfm_core.model import Model
from dfm_core.plugins.registry import Registry, default_registry
from dfm_core.stages import Size, format_size
from dfm_core.training.distributed import World

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured.

    num: samples; of a folder None is all. cfg: guidance weights, each evaluated; None: the run's. solver, batch_size:
    None: the run's. reference: folder of real images, None: the data that the run names, of the part `split`.
    reference_num: how many real images at most. cache: where statistics of the reference are kept, None: the user's
    cache. workers: processes that load images. frames: of clips, where samples are a folder; None: they are images.
    frame_rate: of the clips of folders, in frames a second, None takes every frame.
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
    frames: int | None = None
    frame_rate: float | None = None


@dataclass(frozen=True)
class Voice:
    """Who is told. say: what is being done. warn: of unreadable images. progress: (made, to be made) samples."""

    say: Callable[[str], None] = lambda message: None
    warn: Callable[[str], None] = lambda message: None
    progress: Callable[[int, int], None] = lambda made, total: None


@dataclass(frozen=True)
class EvaluatedSamples:
    """One set of samples.

    title: names its grid. made_with: all that its images depend on, in plain data. frame_rate: at which clips are
    shown, in frames a second.
    """

    title: str
    made_with: Mapping[str, Any]
    samples: Dataset
    results: list[MetricResult]
    frame_rate: float = DEFAULT_FRAME_RATE

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        results = [result.as_dict() for result in self.results]
        return {"title": self.title, "made_with": dict(self.made_with), "results": results}


@dataclass(frozen=True)
class Evaluation:
    """All sets of samples of one evaluation, and the reference that they were measured against."""

    reference: Mapping[str, Any]
    rows: list[EvaluatedSamples] = field(default_factory=list)

    @property
    def noun(self) -> str:
        """What was measured, as prose: "images" or "clips"."""
        return PLURAL[measured_medium(tuple(self.reference["size"]))]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"reference": dict(self.reference), "rows": [row.as_dict() for row in self.rows]}

    def write(self, folder: Path) -> None:
        """Write results.json, and of each set that has none yet a picture of its first samples.

        Of clips that is a contact sheet, and a GIF.
        """
        for row in self.rows:
            picture = folder / f"grid_{row.title}.png"
            if not picture.exists():
                save_pictures(picture, row.samples, row.frame_rate)
        write_json(folder / RESULTS_FILE, self.as_dict())


Keep = Callable[[Evaluation], None]
"""Told of an evaluation whenever something was added to it."""


def evaluate_model(
    model: Model,
    root: Path,
    settings: EvaluationSettings,
    world: World,
    registry: Registry | None = None,
    voice: Voice | None = None,
    keep: Keep = lambda evaluation: None,
) -> Evaluation:
    """Sample a model with every guidance weight, and measure. All processes of a world must call.

    root: folder in which samples are kept; those that are there are not made again. keep: told after each weight. Where
    the model ends with a coarser stage than its last, which another training goes on from, real images are shown at
    that stage, too. Raises CompositionError for metrics of images where the model makes clips, or the reverse.
    """
    registry = registry or default_registry()
    check_metrics_fit(settings.metrics, model.composition.generated_size, registry)
    voice, sampling = voice or Voice(), model.composition.config.sampling
    reference = reference_of_model(model, settings)
    if reference.view is not None:
        stage = f"stage {model.composition.generated_stages} of {model.composition.num_stages}"
        voice.say(f"this run ends with {stage}, {format_size(reference.size)} pixels: real images are shown at it, too")
    evaluator = _evaluator(reference, settings, world, registry, voice)
    if world.is_first and settings.num is not None and settings.num < len(model.classes):
        voice.warn(
            f"{settings.num} samples are of the first {settings.num} of {len(model.classes)} classes, the real "
            f"{PLURAL[measured_medium(reference.size)]} of all of them: expected at least one sample a class (--num)"
        )
    evaluation = Evaluation(reference.identity)
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
        results = evaluator.evaluate(samples, samples.broken)
        evaluation.rows.append(EvaluatedSamples(f"cfg_{weight:g}", request, samples, results, sampling.frame_rate))
        keep(evaluation)
    return evaluation


def evaluate_folder(
    folder: Path,
    settings: EvaluationSettings,
    world: World,
    registry: Registry | None = None,
    voice: Voice | None = None,
) -> Evaluation:
    """Measure the images of a folder, all of one size, against those of `settings.reference`, fitted to that size.

    With settings.frames, clips of so many frames, taken from the middle of each.
    """
    if settings.reference is None:
        raise UsageError("a folder of samples needs real images to compare with: --reference FOLDER")
    frames = settings.frames
    size = folder_size(folder) if frames is None else folder_clip_size(folder, frames)
    whole = _folder(folder, size, settings, exact=True)
    reference = reference_of_folder(_folder(settings.reference, size, settings), settings.reference_num)
    evaluator = _evaluator(reference, settings, world, registry, voice or Voice())
    samples = Some(whole, settings.num)
    made_with = {"folder": str(folder), "listing": whole.listing}
    row = EvaluatedSamples("samples", made_with, samples, evaluator.evaluate(samples))
    return Evaluation(reference.identity, [row])


def reference_of_model(model: Model, settings: EvaluationSettings) -> Reference:
    """Real images of the settings' folder, else of the data that the model's run names, as the model has to make them.

    Raises DataError where there are none.
    """
    if settings.reference is None:
        reference = reference_of_run(model.assembler, settings.split, settings.reference_num)
    else:
        size = measured_size(model.composition.config.stages[-1])
        reference = reference_of_folder(_folder(settings.reference, size, settings), settings.reference_num)
    return replace(reference, view=_view(model))


def _view(model: Model) -> View | None:
    """Real images as a model that ends with a coarser stage than the last has to make them."""
    composition, number = model.composition, model.composition.generated_stages
    if number == composition.num_stages:
        return None
    config = composition.config
    described = {
        "stages": [list(size) for size in config.stages[:number]],
        "of": list(config.stages[-1]),
        "decomposition": config.component("decomposition").model_dump(mode="json"),
        "autoencoder": composition.space.autoencoder.key,
    }
    size = composition.generated_size

    def show(images: Tensor) -> Tensor:
        shown = model.recompose(model.decompose(images)[:number])
        return shown.squeeze(2) if shown.ndim > 2 + len(measured_size(size)) else shown

    return View(show, size, described)


def _folder(folder: Path, size: Size, settings: EvaluationSettings, exact: bool = False) -> FolderImages:
    return folder_set(folder, size, exact, settings.frame_rate)


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
