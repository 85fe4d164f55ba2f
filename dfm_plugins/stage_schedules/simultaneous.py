"""All stages together from noise to data: no progression, the competing choice in table 1b of the paper."""

from __future__ import annotations

import numpy as np
import torch

from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageSchedule, StageScheduleFacts
from dfm_plugins.stage_schedules.spacing import resolve_shifts, spaced
from dfm_plugins.stage_schedules.specs import SimultaneousOptions

DEFAULT_STEPS = 40


class SimultaneousSchedule(StageSchedule):
    """Every stage is visible throughout and goes from 0 to 1 in the same steps; at shift 1 all have the same t."""

    options: SimultaneousOptions

    def __init__(self, options: SimultaneousOptions, facts: StageScheduleFacts) -> None:
        super().__init__(options, facts)
        self.steps = options.steps or DEFAULT_STEPS
        self.shifts = resolve_shifts(options.shift, facts)

    def grid(self) -> ScheduleGrid:
        """Return the timesteps, (steps+1, S)."""
        progress = np.arange(self.steps + 1) / self.steps
        t = np.stack([spaced(progress, shift) for shift in self.shifts], axis=1)
        return ScheduleGrid(torch.from_numpy(t), torch.ones(self.steps, self.facts.num_stages, dtype=torch.bool))
