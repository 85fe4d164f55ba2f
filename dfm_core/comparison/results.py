"""What a comparison has found so far: read from its folder, in plain data, the same whenever it is the same."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfm_core.comparison.evaluation import read_results, result_file
from dfm_core.comparison.plan import Plan
from dfm_core.comparison.runner import Comparison, EveryRateDivergedError
from dfm_core.comparison.statistics import Spread, Verdict, log_ratio, verdict
from dfm_core.comparison.training import has_diverged
from dfm_core.errors import UsageError
from dfm_core.media import PLURAL, measured_medium

Curve = dict[int, dict[int, float]]
"""FLOPs -> seed -> value."""


@dataclass(frozen=True)
class Outcome:
    """One variant by one metric, at one time. spread: over seeds. ratio: log(variant / reference), paired by seed."""

    variant: str
    values: dict[int, float]
    spread: Spread | None
    ratio: Spread | None
    verdict: Verdict | None


@dataclass(frozen=True)
class MetricTable:
    """A metric with one guidance weight (None: each variant's own). floor: what real images score.

    curves: variant -> values by compute. outcomes: at the end. earlier: before it, by part of the budget ("1/3"), of
    the variants that are measured there.
    """

    metric: str
    number: str
    weight: float | None
    better: str
    floor: float | None
    real_images: int | None
    variant: dict[str, Any]
    outcomes: tuple[Outcome, ...]
    curves: dict[str, Curve]
    earlier: dict[str, tuple[Outcome, ...]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Metric and guidance weight."""
        return self.number if self.weight is None else f"{self.number}, cfg {self.weight:g}"


@dataclass(frozen=True)
class RateGrid:
    """Learning rates that were tried on one seed. values: variant -> rate -> first metric at the end.

    None stands for what is not measured: not yet, or since it diverged.
    """

    metric: str
    seed: int
    values: dict[str, dict[float, float | None]]


@dataclass(frozen=True)
class Results:
    """All tables, and what is true of each variant whatever the metric. noun: what is made, "images" or "clips"."""

    reference: str
    seeds: tuple[int, ...]
    num: int
    variants: dict[str, dict[str, Any]]
    tables: tuple[MetricTable, ...] = field(default=())
    noun: str = "images"
    rates: RateGrid | None = None


def collect(comparison: Comparison) -> Results:
    """Read the results that there are."""
    plan, folder = comparison.plan, comparison.folder
    rates = {name: known_rate(comparison, name) for name in plan.variants}
    variants = {name: describe(comparison, name, rates[name]) for name in plan.variants}
    weights = plan.settings.evaluation.cfg or (None,)
    tables = [table_of(plan, folder, metric.name, weight, rates) for weight in weights for metric in plan.metrics]
    seeds, num = plan.seeds, plan.settings.evaluation.num
    noun = PLURAL[measured_medium(plan.variants[plan.reference].config.stages[-1])]
    measured = tuple(table for table in tables if table is not None)
    return Results(plan.reference, seeds, num, variants, measured, noun, grid_of(plan, folder))


def grid_of(plan: Plan, folder: Path) -> RateGrid | None:
    """What the learning rates that were tried gave; None where none were."""
    tried = [rate for rate in plan.rates if rate is not None]
    metric, seed = plan.metrics[0].name, plan.rate_seed
    values: dict[str, dict[float, float | None]] = {name: {} for name in plan.variants}
    for name, rate in itertools.product(plan.variants, tried):
        file = result_file(folder, name, seed, rate, plan.schedules[name].points[-1], plan.weights(name)[0])
        found = read_results(file)[metric]["values"] if file.is_file() else {}
        values[name][rate] = next(iter(found.values()), None)
    return RateGrid(metric, seed, values) if tried else None


def known_rate(comparison: Comparison, variant: str) -> float | None:
    """The learning rate of a variant's results; None where it keeps its own, or the choice is not made."""
    try:
        return comparison.rate(variant)
    except UsageError:
        return None


def describe(comparison: Comparison, name: str, rate: float | None) -> dict[str, Any]:
    """What a variant's table line says beside its results."""
    plan, folder = comparison.plan, comparison.folder
    schedule, variant = plan.schedules[name], plan.variants[name]
    try:
        comparison.rate(name)
        diverged = [seed for seed in plan.seeds if has_diverged(folder, plan, name, seed, rate)]
    except EveryRateDivergedError:
        diverged = list(plan.seeds)
    except UsageError:
        diverged = []
    return {
        "steps": list(schedule.steps),
        "flops_per_step": list(schedule.flops),
        "flops": schedule.total,
        "model_calls": variant.runs[-1].calls,
        "learning_rate": variant.config.training.learning_rate if plan.rates == (None,) else rate,
        "training": variant.training,
        "diverged": diverged,
    }


def table_of(
    plan: Plan, folder: Path, metric: str, weight: float | None, rates: dict[str, float | None]
) -> MetricTable | None:
    """Collect one metric; None where nothing was measured yet."""
    found: dict[str, Any] = {}
    curves: dict[str, Curve] = {}
    for name in plan.variants:
        chosen = plan.weights(name)[0] if weight is None else weight
        for point in plan.schedules[name].points:
            for seed in plan.seeds:
                file = result_file(folder, name, seed, rates[name], point, chosen)
                if file.is_file():
                    found = read_results(file)[metric]
                    number, value = next(iter(found["values"].items()))
                    curves.setdefault(name, {}).setdefault(point.flops, {})
                    if value is not None:
                        curves[name][point.flops][seed] = value
    if not found:
        return None
    last = {name: curves.get(name, {}).get(plan.schedules[name].points[-1].flops, {}) for name in plan.variants}
    real, better = found["real"], found["better"]
    return MetricTable(
        metric=metric,
        number=number,
        weight=weight,
        better=better,
        floor=None if real is None else real["values"][number],
        real_images=None if real is None else real["images"],
        variant=found["variant"],
        outcomes=tuple(outcome(name, last, plan, better) for name in plan.variants),
        curves=curves,
        earlier={
            part: tuple(outcome(name, values, plan, better) for name in values)
            for part, values in by_part(plan, curves).items()
        },
    )


def by_part(plan: Plan, curves: dict[str, Curve]) -> dict[str, dict[str, dict[int, float]]]:
    """What was measured before the end: part of the budget ("1/3") -> variant -> seed -> value."""
    parts = plan.settings.evaluation.points
    found: dict[str, dict[str, dict[int, float]]] = {f"{number}/{parts}": {} for number in range(1, parts)}
    for name, curve in curves.items():
        for point in plan.schedules[name].points[:-1]:
            number = round(parts * point.flops / plan.schedules[name].total)
            if point.flops in curve and 0 < number < parts:
                found[f"{number}/{parts}"][name] = curve[point.flops]
    return {part: values for part, values in found.items() if values}


def outcome(name: str, measured: dict[str, dict[int, float]], plan: Plan, better: str) -> Outcome:
    """Compare a variant's values with the reference's. measured: variant -> seed -> value, at one time.

    There is a verdict only where every seed has a log-ratio: the seeds that are missing may be those that went wrong.
    """
    values = measured[name]
    ratio = None if name == plan.reference else log_ratio(values, measured.get(plan.reference, {}))
    spread = Spread.of([values[seed] for seed in sorted(values)]) if values else None
    whole = ratio is not None and ratio.count == len(plan.seeds)
    return Outcome(name, values, spread, ratio, verdict(ratio, better) if whole else None)


def as_data(results: Results) -> dict[str, Any]:
    """Plain data for JSON."""

    def spread(value: Spread | None) -> dict[str, Any] | None:
        if value is None:
            return None
        return {"mean": value.mean, "deviation": value.deviation, "error": value.error, "seeds": value.count}

    def plain(outcome: Outcome) -> dict[str, Any]:
        return {
            "values": {str(seed): value for seed, value in sorted(outcome.values.items())},
            "spread": spread(outcome.spread),
            "log_ratio": spread(outcome.ratio),
            "verdict": outcome.verdict,
        }

    tables = [
        {
            "metric": table.metric,
            "number": table.number,
            "cfg": table.weight,
            "better": table.better,
            "real": {"value": table.floor, "images": table.real_images},
            "measured_by": table.variant,
            "variants": {outcome.variant: plain(outcome) for outcome in table.outcomes},
            "earlier": {
                part: {outcome.variant: plain(outcome) for outcome in outcomes}
                for part, outcomes in table.earlier.items()
            },
            "curves": {
                name: [
                    {"flops": flops, "values": {str(seed): value for seed, value in sorted(values.items())}}
                    for flops, values in sorted(curve.items())
                ]
                for name, curve in table.curves.items()
            },
        }
        for table in results.tables
    ]
    about = {"reference": results.reference, "seeds": list(results.seeds), "samples": results.num}
    grid = None
    if results.rates is not None:
        values = {name: {f"{rate:g}": value for rate, value in of.items()} for name, of in results.rates.values.items()}
        grid = {"metric": results.rates.metric, "seed": results.rates.seed, "values": values}
    return {**about, "variants": results.variants, "learning_rates": grid, "metrics": tables}
