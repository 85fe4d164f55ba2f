"""Straight lines, and a finished stage that gets a little fresh noise before it conditions the next."""

from __future__ import annotations

import torch
from torch import Tensor

from dfm_core.errors import CompositionError
from dfm_core.flow import StraightPath
from dfm_core.interfaces.path import FreshNoise, PathFacts, Phase
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.stages import Stages
from dfm_plugins.paths.specs import CascadedOptions


class Cascaded(StraightPath):
    """Generation noises each finished stage anew, c = a·X + (1 − a)·ε, and leaves it there while the next one runs.

    a = 1 − `condition_noise` is the t that the network is told of it. Training draws that t, so the path is straight
    there. Conditioning augmentation: Ho et al. 2022, Cascaded Diffusion Models; paper section 4.4.
    """

    options: CascadedOptions

    def __init__(self, options: CascadedOptions, facts: PathFacts) -> None:
        super().__init__(options, facts)
        if facts.num_stages > 1 and not facts.whole_stages:
            raise CompositionError(
                "path cascaded: a finished stage stays noisy, so no later one may build on it; use a decomposition "
                "whose stages are whole pictures or clips (--decomposition downsampled)"
            )

    @property
    def kept(self) -> float:
        """a: share of data in a finished stage while the next one runs."""
        return 1 - self.options.condition_noise

    def check_grid(self, grid: ScheduleGrid) -> None:
        """Raise CompositionError unless each stage is finished before the next becomes visible."""
        for step in range(1, grid.num_steps):
            begins = grid.visible[step] & ~grid.visible[step - 1]
            unfinished = grid.visible[step - 1] & (grid.t[step] < 1)
            if begins.any() and unfinished.any():
                raise CompositionError(
                    f"path cascaded: stage {int(begins.nonzero()[0]) + 1} begins while an earlier one is at t = "
                    f"{float(grid.t[step][unfinished][0]):g}, expected 1; set stage_schedule.options.thresholds=1"
                )

    def enter_phase(self, stages: Stages, phase: Phase, noise: FreshNoise) -> Stages:
        """Noise the stages that were visible in the phase before, and stay so: the one that has just been finished.

        Those before it were noised when they were finished.
        """
        was_last = int(phase.previous.nonzero().max())
        return tuple(
            self.kept * stage + (1 - self.kept) * noise(index) if index == was_last and phase.visible[index] else stage
            for index, stage in enumerate(stages)
        )

    def state_time(self, t: Tensor, visible: Tensor) -> Tensor:
        """Return a for finished stages beside one that is not; t for the others."""
        waiting = visible & (t < 1)
        order = torch.arange(len(t))
        last = int(order[waiting].max()) if waiting.any() else -1
        return torch.where((t >= 1) & (order < last), t.new_tensor(self.kept), t)
