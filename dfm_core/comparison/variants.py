"""From the file of a comparison to the configurations of its runs, what they train, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dfm_core.assembly import Assembler
from dfm_core.comparison.config import ComparisonConfig
from dfm_core.composition import DataDescription
from dfm_core.config.resolve import ConfigRequest, Level, resolve_config
from dfm_core.config.resume import CHANGEABLE
from dfm_core.config.run_config import RunConfig
from dfm_core.devices import resolve_device
from dfm_core.errors import ConfigError, UsageError
from dfm_core.interfaces.stage_schedule import StageScheduleFacts
from dfm_core.interfaces.timestep_sampler import TimestepSamplerFacts
from dfm_core.plan import plan_training
from dfm_core.plugins.registry import Registry
from dfm_core.runs.start import describe_data
from dfm_core.solvers import make_solver

SAMPLING = ("sampling", "stage_schedule")
"""Parts of a configuration that generation reads, and training only through the timestep sampler."""
_PROBED = 256
"""Draws of a timestep sampler that are looked at."""


@dataclass(frozen=True)
class Run:
    """One training of a variant. share: of the variant's compute. flops: of a step. calls: of the network, an image."""

    config: RunConfig
    share: float
    flops: int
    calls: int


@dataclass(frozen=True)
class Variant:
    """A variant. runs: its trainings, in a row. training: the variant whose training this is, often its own."""

    name: str
    runs: tuple[Run, ...]
    training: str

    @property
    def config(self) -> RunConfig:
        """The configuration whose model is measured: the last run's."""
        return self.runs[-1].config


def make_variants(
    comparison: ComparisonConfig, registry: Registry, request: ConfigRequest, warn: Callable[[str], None]
) -> dict[str, Variant]:
    """Resolve and count every variant. request: what was asked for beside the file; it lies over the file's base.

    Raises ConfigError and CompositionError that name the variant.
    """
    counted: dict[str, tuple[Run, ...]] = {}
    data: dict[str, DataDescription] = {}
    for name, levels in comparison.levels().items():
        with named_errors(name):
            configs = resolve_runs(comparison.base, levels, registry, request, f"variant {name}", warn)
            counted[name] = tuple(count_run(config, share, registry, data) for config, share in configs)
    check_alike(comparison, counted)
    check_real_images(comparison, data.values())
    return with_trainings(counted, registry)


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Inside: an error of a configuration says of which variant it is."""
    try:
        yield
    except UsageError as error:
        raise type(error)(f"variant {name!r}: {error}") from error


def resolve_runs(
    base: Mapping[str, Any],
    variant: Mapping[str, Any],
    registry: Registry,
    request: ConfigRequest,
    origin: str,
    warn: Callable[[str], None] = lambda message: None,
) -> list[tuple[RunConfig, float]]:
    """Configurations of a variant's runs, and their shares of its compute, which sum to 1."""
    own = {key: value for key, value in variant.items() if key != "runs"}
    runs = variant.get("runs") or [{"share": 1}]
    shares = [run.get("share") for run in runs]
    numbers = [share for share in shares if isinstance(share, int | float) and not isinstance(share, bool)]
    if len(numbers) < len(shares) or min(numbers) <= 0 or abs(sum(numbers) - 1) > 1e-6:
        raise ConfigError(f"runs: expected a share above 0 of each, summing to 1, got {shares}")
    configs = []
    for run, share in zip(runs, shares, strict=True):
        levels = [own, {key: value for key, value in run.items() if key != "share"}]
        whole = dataclasses.replace(
            request,
            below=(*request.below, Level(base, "base", soft=True)),
            above=(*request.above, *(Level(level, origin) for level in levels)),
        )
        resolved = resolve_config(whole, registry)
        if resolve_device(resolved.config.device).type != "cpu":
            resolved = resolve_config(dataclasses.replace(whole, accelerator=True), registry)
        for message in resolved.warnings:
            warn(message)
        configs.append((resolved.config, float(share)))
    return configs


def count_run(config: RunConfig, share: float, registry: Registry, data: dict[str, DataDescription]) -> Run:
    """Plan a run: FLOPs of a step, and calls of the network for an image. data: known descriptions, added to."""
    assembler = Assembler(config, registry)
    key = repr((config.component("dataset"), config.stages[-1]))
    if key not in data:
        data[key] = describe_data(assembler.dataset())
    plan = plan_training(assembler, data[key])
    calls = plan.generation_steps * make_solver(config.sampling.solver).calls_per_step
    return Run(config, share, plan.flops, calls)


def check_alike(comparison: ComparisonConfig, variants: Mapping[str, tuple[Run, ...]]) -> None:
    """Raise ConfigError unless all variants make images of one size from one data set, with equal calls if asked."""
    facts: dict[str, dict[str, object]] = {"size": {}, "data set": {}, "calls of the network for an image": {}}
    for name, runs in variants.items():
        config = runs[-1].config
        values = (config.stages[-1], config.component("dataset").model_dump(), runs[-1].calls)
        for fact, value in zip(facts, values, strict=True):
            facts[fact][name] = value
    if comparison.model_calls == "any":
        del facts["calls of the network for an image"]
    for fact, found in facts.items():
        if any(value != next(iter(found.values())) for value in found.values()):
            listed = "; ".join(f"{name}: {value}" for name, value in found.items())
            advice = ", or say model_calls: any" if fact.startswith("calls") else ""
            raise ConfigError(f"variants must have the same {fact}, got {listed}; change their options{advice}")


def check_real_images(comparison: ComparisonConfig, data: Iterable[DataDescription]) -> None:
    """Raise ConfigError where samples would have nothing to be measured against: stored latents are no images."""
    if comparison.evaluation.images is None and any(description.latents for description in data):
        raise ConfigError(
            "evaluation.images: expected the folder of images that the stored latents were made of, got none: samples "
            "are measured as images"
        )


def with_trainings(variants: Mapping[str, tuple[Run, ...]], registry: Registry) -> dict[str, Variant]:
    """Let variants that differ only in what generation reads share one training, of the first of them."""
    first: dict[str, str] = {}
    found = {}
    for name, runs in variants.items():
        identity = repr([(run.share, training_identity(run.config, registry)) for run in runs])
        found[name] = Variant(name, runs, first.setdefault(identity, name))
    return found


def training_identity(config: RunConfig, registry: Registry) -> dict[str, object]:
    """What a training depends on: the configuration without what generation alone reads, and the timesteps drawn.

    A timestep sampler is given the schedule's grid: whether it heeds it is seen from its draws.
    """
    values = comparable(config)
    for section in SAMPLING:
        values.pop(section, None)
    return {**values, "draws": draws(config, registry)}


def draws(config: RunConfig, registry: Registry) -> list[object]:
    """Some draws of the timestep sampler, for stages of generic root mean squares: schedules may space by them."""
    num = len(config.stages)
    sigmas = tuple(0.6 * 0.4**index for index in range(num))
    schedule, sampler = config.component("stage_schedule"), config.component("timestep_sampler")
    grid = registry.create("stage_schedule", schedule.name, schedule.options, StageScheduleFacts(num, sigmas)).grid()
    made = registry.create("timestep_sampler", sampler.name, sampler.options, TimestepSamplerFacts(num, grid))
    draw = made.sample(_PROBED, torch.Generator().manual_seed(0))
    return [draw.t.tolist(), draw.visible.tolist(), draw.trained.tolist()]


def comparable(config: RunConfig) -> dict[str, Any]:
    """A configuration without what may change while it stays the same training: seed, place, device, log."""
    values = config.model_dump(mode="json")
    for key in (*CHANGEABLE, "seed", "logging", "plugin_files"):
        section, _, name = key.partition(".")
        if name:
            values[section].pop(name, None)
        else:
            values.pop(section, None)
    return values
