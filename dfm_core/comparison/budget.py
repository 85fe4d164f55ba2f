"""Compute: how many steps each variant may take for the same FLOPs, and after which of them it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dfm_core.comparison.config import BudgetSettings
from dfm_core.comparison.variants import Variant
from dfm_core.errors import ConfigError


@dataclass(frozen=True)
class Point:
    """A model that is measured. step: of the last run. flops: spent by then, in all runs of the variant."""

    step: int
    flops: int


@dataclass(frozen=True)
class Schedule:
    """What a variant does. steps, flops: of each run, and of a step of it. points: in order; the last is the end."""

    steps: tuple[int, ...]
    flops: tuple[int, ...]
    points: tuple[Point, ...]

    @property
    def total(self) -> int:
        """FLOPs of all steps."""
        return sum(steps * flops for steps, flops in zip(self.steps, self.flops, strict=True))


def budget_flops(settings: BudgetSettings, reference: Variant) -> float:
    """FLOPs that every variant may spend. Raises ConfigError where the file does not say it clearly."""
    if settings.steps is not None and settings.flops is not None:
        raise ConfigError(f"budget: expected steps or flops, got both ({settings.steps}, {settings.flops:g})")
    if settings.flops is not None:
        return settings.flops
    if len(reference.runs) > 1:
        raise ConfigError(
            f"budget: the reference {reference.name!r} has {len(reference.runs)} runs, so a number of steps says "
            "nothing; expected budget.flops, or another reference"
        )
    (run,) = reference.runs
    return (settings.steps or run.config.training.max_steps) * run.flops


def schedule_of(variant: Variant, budget: float, points: int) -> Schedule:
    """Steps of a variant's runs for `budget` FLOPs, each to the nearest step, and where its last run is measured.

    points: evenly over the budget; those that fall into earlier runs, which make no whole images, are left out.
    """
    flops = tuple(run.flops for run in variant.runs)
    steps = tuple(max(1, round(run.share * budget / run.flops)) for run in variant.runs)
    before = sum(count * cost for count, cost in zip(steps[:-1], flops[:-1], strict=True))
    wanted = [round((budget * index / points - before) / flops[-1]) for index in range(1, points)]
    at = sorted({step for step in wanted if 0 < step < steps[-1]} | {steps[-1]})
    return Schedule(steps, flops, tuple(Point(step, before + step * flops[-1]) for step in at))


def schedules_of(
    variants: Mapping[str, Variant], settings: BudgetSettings, reference: str, points: int
) -> dict[str, Schedule]:
    """Schedules of all variants, for the same FLOPs."""
    budget = budget_flops(settings, variants[reference])
    return {name: schedule_of(variant, budget, points) for name, variant in variants.items()}
