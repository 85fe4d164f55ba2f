"""Whether generation visits only what training draws: sets of visible stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfm_core.errors import CompositionError
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageScheduleFacts
from dfm_core.interfaces.timestep_sampler import TimestepSampler

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.plugins.registry import Registry


def unseen_stage_sets(grid: ScheduleGrid, sampler: TimestepSampler) -> list[tuple[bool, ...]]:
    """Return the sets of visible stages that the schedule visits, and no training has drawn."""
    return _in_order(_undrawn(grid, sampler) - sampler.trained_before())


def stage_sets_of_another_training(grid: ScheduleGrid, sampler: TimestepSampler) -> list[tuple[bool, ...]]:
    """Return the sets that the schedule visits, and that only the training of the weights it begins with has drawn."""
    return _in_order(_undrawn(grid, sampler) & sampler.trained_before())


def _undrawn(grid: ScheduleGrid, sampler: TimestepSampler) -> set[tuple[bool, ...]]:
    seen = {stages for stages, probability in sampler.visible_probabilities().items() if probability > 0}
    return {tuple(row) for row in grid.visible.tolist()} - seen


def _in_order(sets: set[tuple[bool, ...]]) -> list[tuple[bool, ...]]:
    return sorted(sets, key=lambda stages: (sum(stages), stages[::-1]))


def check_schedule(
    config: RunConfig,
    registry: Registry,
    grid: ScheduleGrid,
    sampler: TimestepSampler,
    sigmas: tuple[float, ...],
    name: str | None = None,
) -> None:
    """Raise CompositionError if generation would visit what training never saw, naming schedules that fit.

    name: of the schedule, where it is another than the config's.
    """
    unseen = unseen_stage_sets(grid, sampler)
    if not unseen:
        return
    fitting = fitting_schedules(registry, sampler, StageScheduleFacts(len(sigmas), sigmas))
    sets = "; ".join("+".join(str(i + 1) for i, seen in enumerate(stages) if seen) for stages in unseen)
    asked = name or config.component("stage_schedule").name
    raise CompositionError(
        f"schedule {asked!r} shows the network stages {sets} together, which timestep sampler "
        f"{config.component('timestep_sampler').name!r} never draws in training; "
        + (f"schedules that fit: {', '.join(fitting)} (--schedule)" if fitting else "use another timestep sampler")
    )


def fitting_schedules(registry: Registry, sampler: TimestepSampler, facts: StageScheduleFacts) -> list[str]:
    """Names of the schedules that with their default options visit only what the sampler draws."""

    def fits(name: str) -> bool:
        try:
            return not unseen_stage_sets(registry.create("stage_schedule", name, {}, facts).grid(), sampler)
        except Exception:  # one that needs options, or that is broken, is nothing to suggest
            return False

    return [name for name in registry.names("stage_schedule") if fits(name)]
