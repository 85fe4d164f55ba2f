"""Everything that a comparison will do, before it does it; and the record that says whether it still is the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dfm_core.comparison.budget import Schedule, schedules_of
from dfm_core.comparison.config import ComparisonConfig
from dfm_core.comparison.variants import Run, Variant, comparable, make_variants
from dfm_core.config.resolve import ConfigRequest, flatten
from dfm_core.config.run_config import RunConfig
from dfm_core.config.settings import ComponentChoice
from dfm_core.errors import ConfigError, DFMError, UsageError
from dfm_core.evaluation.defaults import default_metrics
from dfm_core.media import check_metrics_fit, measured_medium
from dfm_core.plugins.factory import validate_options
from dfm_core.plugins.registry import Registry
from dfm_core.training.run_directory import replace_text

RECORD = "comparison.json"
_SHOWN = 10
"""Differences that an error lists."""


@dataclass(frozen=True)
class Plan:
    """A comparison. seeds: to train with. reference: name of a variant. metrics: the first chooses learning rates."""

    settings: ComparisonConfig
    variants: Mapping[str, Variant]
    schedules: Mapping[str, Schedule]
    reference: str
    seeds: tuple[int, ...]
    metrics: tuple[ComponentChoice, ...]

    @property
    def rates(self) -> tuple[float | None, ...]:
        """Learning rates that every variant tries; one None where each keeps its own."""
        return (None,) if self.settings.learning_rates is None else self.settings.learning_rates.values

    @property
    def rate_seed(self) -> int:
        """Seed on which learning rates are tried."""
        grid = self.settings.learning_rates
        return self.settings.seeds[0] if grid is None or grid.seed is None else grid.seed

    def weights(self, variant: str) -> tuple[float, ...]:
        """Guidance weights with which a variant is measured."""
        return self.settings.evaluation.cfg or (self.variants[variant].config.sampling.cfg,)

    def on_device(self, choose: Callable[[str], str]) -> Plan:
        """The same on other devices. choose: what a configuration says -> what it shall say."""

        def moved(run: Run) -> Run:
            device = choose(run.config.device)
            return replace(run, config=run.config.model_copy(update={"device": device}))

        runs = {name: tuple(map(moved, variant.runs)) for name, variant in self.variants.items()}
        return replace(self, variants={name: replace(self.variants[name], runs=own) for name, own in runs.items()})

    def config(self, variant: str, number: int, seed: int, rate: float | None, output: Path) -> RunConfig:
        """Configuration of run `number` of a variant's training, complete."""
        name = self.variants[variant].training
        config, schedule = self.variants[name].runs[number].config, self.schedules[name]
        changes: dict[str, Any] = {"max_steps": schedule.steps[number]}
        if rate is not None:
            changes["learning_rate"] = rate
        is_last = number == len(schedule.steps) - 1
        kept = tuple(point.step for point in schedule.points) if is_last else ()
        return config.model_copy(
            update={
                "training": config.training.model_copy(update=changes),
                "logging": config.logging.model_copy(update={"checkpoint_steps": kept}),
                "seed": seed,
                "output": str(output),
            }
        )


def make_plan(
    settings: ComparisonConfig,
    registry: Registry,
    request: ConfigRequest | None = None,
    seeds: tuple[int, ...] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> Plan:
    """Resolve, count and schedule all variants. request: what was asked for beside the file. Raises ConfigError."""
    reference = settings.reference_name()
    chosen = settings.evaluation.metrics
    for metric in chosen or ():
        validate_options(
            registry.get("metric", metric.name), metric.options, f"evaluation.metrics.{metric.name}.options"
        )
    variants = make_variants(settings, registry, request or ConfigRequest(), warn)
    size = variants[reference].config.stages[-1]  # of all variants: that is checked
    defaults = default_metrics(registry, measured_medium(size))
    metrics = chosen or tuple(ComponentChoice(name=name) for name in defaults)
    check_metrics_fit([metric.name for metric in metrics], size, registry)
    schedules = schedules_of(variants, settings.budget, reference, settings.evaluation.points)
    return Plan(settings, variants, schedules, reference, seeds or settings.seeds, metrics)


def record_of(plan: Plan) -> dict[str, Any]:
    """What results depend on, in plain data: the same for more seeds, variants or another reference."""
    variants = {}
    for name, variant in plan.variants.items():
        schedule = plan.schedules[name]
        runs = [
            {**comparable(run.config), "steps": steps, "share": run.share, "flops of a step": run.flops}
            for run, steps in zip(variant.runs, schedule.steps, strict=True)
        ]
        points = [point.step for point in schedule.points]
        variants[name] = {"runs": {str(n): run for n, run in enumerate(runs, 1)}, "points": points}
        variants[name]["training"] = variant.training
    evaluation = plan.settings.evaluation.model_dump(mode="json", exclude={"batch_size"})
    evaluation["metrics"] = {metric.name: metric.options for metric in plan.metrics}
    rates = plan.settings.learning_rates
    grid = {"values": list(plan.rates), "seed": plan.rate_seed} if rates is not None else None
    plain: dict[str, Any] = json.loads(
        json.dumps({"variants": variants, "evaluation": evaluation, "learning_rates": grid})
    )
    return plain


def take_up(folder: Path, plan: Plan) -> None:
    """Begin a comparison in `folder`, or take up the one that lies there.

    Raises ConfigError that names what changed, UsageError for a folder of something else.
    """
    file, record = folder / RECORD, record_of(plan)
    if folder.exists() and not file.is_file() and not is_unused(folder) and not file.is_file():  # made meanwhile
        raise UsageError(f"{folder} exists and is no folder of a comparison; choose another --output")
    if file.is_file():
        before = read_record(file)
        check_same(folder, before, record)
        record["variants"] = {**before["variants"], **record["variants"]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps(record, indent=1))
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}; choose another --output") from error


def is_unused(folder: Path) -> bool:
    """Whether a folder is empty, but for the record that another process is about to write."""
    return folder.is_dir() and all(entry.name.startswith(f".{RECORD}.") for entry in folder.iterdir())


def read_record(file: Path) -> dict[str, Any]:
    """Read the record of a comparison. Raises DFMError."""
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {**record, "variants": dict(record["variants"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DFMError(f"cannot read {file}: {error}; choose another --output") from error


def check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ConfigError for what results depend on and is another now; only variants that both have are compared."""
    shared = set(before["variants"]) & set(now["variants"])
    old, new = (
        flatten({**record, "variants": {name: record["variants"][name] for name in sorted(shared)}})
        for record in (before, now)
    )
    changed = [key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key)]
    if changed:
        lines = [f"{key}: it has {old.get(key)!r}, got {new.get(key)!r}" for key in changed[:_SHOWN]]
        more = [f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
        raise ConfigError(
            "\n".join(
                [
                    f"{folder} holds a comparison of something else:",
                    *lines,
                    *more,
                    "restore these values, or begin another comparison with --output",
                ]
            )
        )
