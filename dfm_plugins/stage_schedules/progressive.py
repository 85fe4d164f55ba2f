"""One stage after the other, each up to its threshold, then slowly on to the data while the later ones run."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from dfm_core.errors import ConfigError
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageSchedule, StageScheduleFacts
from dfm_plugins.stage_schedules.spacing import progress_at, resolve_shifts, spaced, stages
from dfm_plugins.stage_schedules.specs import ProgressiveOptions

DEFAULT_FIRST_STEPS, DEFAULT_LATER_STEPS, DEFAULT_SINGLE_STEPS = 30, 10, 40
DEFAULT_THRESHOLD = 0.9


def resolve_steps(steps: tuple[int, ...] | None, num_stages: int) -> tuple[int, ...]:
    """Return one step count a stage; raises ConfigError for a wrong number of them."""
    default = (DEFAULT_FIRST_STEPS, *(DEFAULT_LATER_STEPS,) * (num_stages - 1))
    default = (DEFAULT_SINGLE_STEPS,) if num_stages == 1 else default
    if steps is not None and len(steps) != num_stages:
        raise ConfigError(
            f"stage_schedule.options.steps: expected {num_stages} for {stages(num_stages)} (one for each, "
            f"coarse to fine), got {len(steps)}: {list(steps)}; write for instance {','.join(map(str, default))}"
        )
    return default if steps is None else steps


def resolve_thresholds(thresholds: tuple[float, ...] | None, num_stages: int) -> tuple[float, ...]:
    """Return one threshold for each stage but the last; a single one is for all of these. Raises ConfigError."""
    thresholds = (DEFAULT_THRESHOLD,) if thresholds is None else thresholds
    if len(thresholds) == 1:
        return thresholds * (num_stages - 1)
    if len(thresholds) != num_stages - 1:
        raise ConfigError(
            f"stage_schedule.options.thresholds: expected {num_stages - 1} for {stages(num_stages)} (one for each "
            f"stage but the last, or a single one for all), got {len(thresholds)}: {list(thresholds)}"
        )
    return thresholds


def resolve_first_stages(options: ProgressiveOptions, num_stages: int) -> int:
    """Return how many stages are generated; raises ConfigError for too many, or noise in the last picture."""
    wanted = num_stages if options.first_stages is None else options.first_stages
    if wanted > num_stages:
        raise ConfigError(f"stage_schedule.options.first_stages: expected at most {num_stages}, got {wanted}")
    if wanted < num_stages and options.later_stages == "shown":
        raise ConfigError(
            f"stage_schedule.options.first_stages: expected {num_stages} with later_stages=shown, got {wanted}: a "
            "stage that is shown is part of the picture, and would stay noise in it"
        )
    return wanted


class ProgressiveSchedule(StageSchedule):
    """In phase k the stages 1…k are visible and stage k goes from 0 to its threshold. Paper figure 2a.

    A stage's own progress runs linearly in the step index from 0 to g⁻¹(τ) in its phase, then linearly to 1 at the
    very last step; its t is g of that. At shift 1 this is the paper's grid. A threshold of 1 finishes a stage in its
    phase; it stays visible. With `first_stages` the generation ends after these; the other stages stay at noise.
    """

    options: ProgressiveOptions

    def __init__(self, options: ProgressiveOptions, facts: StageScheduleFacts) -> None:
        super().__init__(options, facts)
        shifts = resolve_shifts(options.shift, facts)
        self.num_stages = resolve_first_stages(options, facts.num_stages)
        self.steps = resolve_steps(options.steps, self.num_stages)
        self._thresholds = resolve_thresholds(options.thresholds, self.num_stages)
        self.shifts = shifts[: self.num_stages]

    def grid(self) -> ScheduleGrid:
        """Return the timesteps: sum of the steps + 1 rows, exact at 0, at each threshold and at 1."""
        stops = list(accumulate(self.steps))
        starts = [0, *stops[:-1]]
        columns = [
            self._column(*phase) for phase in zip(starts, stops, (*self._thresholds, 1.0), self.shifts, strict=True)
        ]
        # A stage that is left out never starts.
        left_out = self.facts.num_stages - self.num_stages
        columns += [np.zeros(stops[-1] + 1)] * left_out
        starts += [stops[-1]] * left_out
        visible = np.arange(stops[-1])[:, None] >= np.array(starts)
        if self.options.later_stages == "shown":
            visible = np.ones_like(visible)
        return ScheduleGrid(torch.from_numpy(np.stack(columns, axis=1)), torch.from_numpy(visible))

    def thresholds(self) -> tuple[float, ...]:
        """Return the thresholds of the options: one for each stage but the last that is generated."""
        return self._thresholds

    def _column(self, start: int, stop: int, threshold: float, shift: float) -> NDArray[np.float64]:
        total = sum(self.steps)
        corners = {start: 0.0, stop: progress_at(threshold, shift), total: 1.0}
        progress = np.interp(np.arange(total + 1), list(corners), list(corners.values()))
        t = spaced(progress, shift)
        # g(g⁻¹(τ)) is τ only up to rounding; a reader of the grid may compare exactly.
        t[: start + 1], t[stop], t[total] = 0.0, threshold, 1.0
        return t
