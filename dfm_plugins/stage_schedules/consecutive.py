"""One stage at a time, each alone from 0 to 1: the schedule of Pyramidal Flow."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import torch

from dfm_core.errors import ConfigError
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageSchedule, StageScheduleFacts
from dfm_plugins.stage_schedules.spacing import resolve_shifts, spaced, stages
from dfm_plugins.stage_schedules.specs import ConsecutiveOptions

DEFAULT_STEPS = 40
"""In all stages together."""


class ConsecutiveSchedule(StageSchedule):
    """In phase k stage k alone is visible and goes from 0 to 1, spaced by its shift; a finished stage rests at 1."""

    options: ConsecutiveOptions

    def __init__(self, options: ConsecutiveOptions, facts: StageScheduleFacts) -> None:
        super().__init__(options, facts)
        self.shifts = resolve_shifts(options.shift, facts)
        self.steps = options.steps or spread_evenly(DEFAULT_STEPS, facts.num_stages)
        if len(self.steps) != facts.num_stages:
            raise ConfigError(
                f"stage_schedule.options.steps: expected {facts.num_stages} for {stages(facts.num_stages)} (one for "
                f"each, coarse to fine), got {len(self.steps)}: {list(self.steps)}"
            )

    def grid(self) -> ScheduleGrid:
        """Return the timesteps: sum of the steps + 1 rows."""
        stops = np.array(list(accumulate(self.steps)))
        starts = stops - np.array(self.steps)
        index = np.arange(stops[-1] + 1)[:, None]
        t = spaced(np.clip((index - starts) / (stops - starts), 0, 1), np.array(self.shifts))
        visible = (index[:-1] >= starts) & (index[:-1] < stops)
        return ScheduleGrid(torch.from_numpy(t), torch.from_numpy(visible))


def spread_evenly(steps: int, num_stages: int) -> tuple[int, ...]:
    """Return `steps` in equal parts, the remainder with the first ones; at least one each."""
    whole, rest = divmod(max(steps, num_stages), num_stages)
    return tuple(whole + (stage < rest) for stage in range(num_stages))
