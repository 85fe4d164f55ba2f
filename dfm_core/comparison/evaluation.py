"""The measurements of a comparison: each done once, and kept as a small file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from dfm_core.assembly import Assembler
from dfm_core.comparison.budget import Point
from dfm_core.comparison.plan import Plan
from dfm_core.comparison.training import run_folders, training_folder
from dfm_core.config.run_config import RunConfig
from dfm_core.devices import resolve_device
from dfm_core.errors import DFMError
from dfm_core.evaluation.clip_sets import folder_set
from dfm_core.evaluation.evaluator import Evaluator
from dfm_core.evaluation.reference import Reference, reference_of_folder, reference_of_run
from dfm_core.evaluation.reference_cache import ReferenceCache, default_cache
from dfm_core.evaluation.run_samples import generate_samples
from dfm_core.evaluation.sample_pictures import save_pictures
from dfm_core.evaluation.sample_store import digest_of
from dfm_core.latent_shards import write_json
from dfm_core.model import Model, load
from dfm_core.plugins.registry import Registry
from dfm_core.training.distributed import World

SAMPLES = "samples"
"""Folder of the samples that are being measured."""


def result_file(folder: Path, variant: str, seed: int, rate: float | None, point: Point, weight: float) -> Path:
    """Where a measurement lies."""
    rates = [] if rate is None else [f"rate-{rate:g}"]
    place = folder.joinpath("evaluations", variant, *rates, f"seed-{seed}")
    return place / f"step-{point.step:08d}-cfg-{weight:g}.json"


def read_results(file: Path) -> dict[str, Any]:
    """Read a measurement: metric -> its result, as plain data. Raises DFMError."""
    try:
        return {result["metric"]: result for result in json.loads(file.read_text(encoding="utf-8"))["results"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DFMError(f"cannot read {file}: {error}; remove it, and it is measured again") from error


class Measurer:
    """Samples models of a plan and measures them, all against the same real images."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        registry: Registry,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._folder, self._plan, self._registry, self._say, self._warn = folder, plan, registry, say, warn
        self._warned: set[str] = set()

    def prepare(self) -> None:
        """Make the metrics and look at the real images, so that what is missing is found before anything is trained.

        Raises ConfigError, DataError and errors of the metrics.
        """
        _ = self._evaluator

    def measure(self, variant: str, seed: int, rate: float | None, point: Point, weight: float) -> None:
        """Measure a variant's model after `point`."""
        file = result_file(self._folder, variant, seed, rate, point, weight)
        at = "" if rate is None else f", learning rate {rate:g}"
        self._say(f"measuring {variant}: seed {seed}{at}, step {point.step}, cfg {weight:g}")
        settings, config = self._plan.settings.evaluation, self._plan.variants[variant].config
        training = training_folder(self._folder, self._plan, variant, seed, rate)
        run = run_folders(training, self._plan, variant)[-1]
        model = sampled_as(load(run, device=config.device, registry=self._registry, step=point.step), config)
        samples, request = generate_samples(
            model,
            self._folder / SAMPLES,
            settings.num,
            self._world,
            cfg=weight,
            seed=seed,
            solver=config.sampling.solver,
            batch_size=settings.batch_size,
        )
        results = self._evaluator.evaluate(samples, samples.broken)
        self._warn_once(warning for result in results for warning in result.warnings)
        save_pictures(file.with_suffix(".png"), samples, config.sampling.frame_rate)
        write_json(file, {"request": request, "results": [result.as_dict() for result in results]})
        remove_samples(self._folder / SAMPLES, request)

    def _warn_once(self, messages: Iterable[str]) -> None:
        """Pass on what was not said of another measurement already."""
        for message in messages:
            if message not in self._warned:
                self._warned.add(message)
                self._warn(message)

    @cached_property
    def _world(self) -> World:
        return World(device=resolve_device(self._reference_config.device))

    @property
    def _reference_config(self) -> RunConfig:
        # One seed for all: the real images of every model are the same.
        return self._plan.variants[self._plan.reference].config.model_copy(update={"seed": 0})

    @property
    def _reference(self) -> Reference:
        settings, config = self._plan.settings.evaluation, self._reference_config
        if settings.images is None:
            return reference_of_run(Assembler(config, self._registry), settings.split, settings.reference_num)
        return reference_of_folder(folder_set(Path(settings.images), config.stages[-1]), settings.reference_num)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(
            {metric.name: metric.options for metric in self._plan.metrics},
            self._reference,
            self._registry,
            self._world,
            cache=ReferenceCache(default_cache()),
            workers=self._reference_config.workers,
            say=self._say,
            warn=self._warn,
        )


def remove_samples(root: Path, request: Mapping[str, Any]) -> None:
    """Remove the samples of one request: others below `root` may be another process's, which is not done with them."""
    shutil.rmtree(root / digest_of(request), ignore_errors=True)


def remove_if_empty(folder: Path) -> None:
    """Remove the folder of a comparison's samples where none are left: not before, as others may be about to use it."""
    with contextlib.suppress(OSError):
        (folder / SAMPLES).rmdir()


def sampled_as(model: Model, config: RunConfig) -> Model:
    """A trained model with the stage schedule and the sampling settings of `config`: variants may share a training."""
    choice = config.component("stage_schedule")
    if choice != model.schedule:
        model = model.with_schedule(choice.name, **choice.options)
    composition = model.composition
    changed = composition.config.model_copy(update={"sampling": config.sampling})
    return Model(dataclasses.replace(composition, config=changed), model.assembler, model.schedule)
