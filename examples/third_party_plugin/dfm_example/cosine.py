"""A relay of stages: each runs along half a cosine, and the next sets off shortly before it arrives."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from dfm_core.errors import ConfigError
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageSchedule, StageScheduleFacts

from dfm_example.plugin import CosineOptions


class CosineSchedule(StageSchedule):
    """Stage s takes n_s steps of its own, t = sin²(πp/2) at the share p of them, and then rests at t = 1.

    The next stage starts when the share 1 − overlap of them is done, rounded to a step, where t = cos²(π·overlap/2).
    So, unlike a stage that waits for the end with the others, each is finished soon after its successor has begun. The
    spacing, after Nichol and Dhariwal 2021, is fine near the noise and near the data.
    """

    options: CosineOptions

    def __init__(self, options: CosineOptions, facts: StageScheduleFacts) -> None:
        super().__init__(options, facts)
        given = options.steps if isinstance(options.steps, tuple) else (options.steps,)
        self.steps = given * facts.num_stages if len(given) == 1 else given
        self.ahead = [max(1, round((1 - options.overlap) * count)) for count in self.steps[:-1]]
        if len(self.steps) != facts.num_stages:
            raise ConfigError(
                f"stage_schedule.options.steps: expected {facts.num_stages} counts (one a stage, or a single one for "
                f"all), got {len(given)}: {list(given)}"
            )

    def grid(self) -> ScheduleGrid:
        """Return the timesteps; a stage is visible from its first step to the end."""
        starts = torch.tensor([0, *accumulate(self.ahead)])
        steps = torch.tensor(self.steps)
        step_index = torch.arange(int((starts + steps).max()) + 1)[:, None]
        share = ((step_index - starts) / steps.double()).clamp(0, 1)
        # sin(π/2) is 1 exactly, and the clamp makes 0 and 1 exact.
        return ScheduleGrid(torch.sin(torch.pi / 2 * share).square(), step_index[:-1] >= starts)

    def thresholds(self) -> tuple[float, ...]:
        """Return how far each stage has come when the next one starts, in (0, 1]."""
        shares = [ahead / steps for ahead, steps in zip(self.ahead, self.steps[:-1], strict=True)]
        return tuple(math.sin(math.pi / 2 * share) ** 2 for share in shares)
