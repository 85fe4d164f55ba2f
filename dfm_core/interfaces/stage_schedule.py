"""Kind `stage schedule`: the timestep of every stage at every step of generation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from pydantic import BaseModel
from torch import Tensor


@dataclass(frozen=True)
class StageScheduleFacts:
    """What core computes for a schedule.

    num_stages: S. stage_sigmas: root mean square of each stage as the flow sees it (1 when standardised), > 0.
    """

    num_stages: int
    stage_sigmas: tuple[float, ...]


@dataclass(frozen=True)
class ScheduleGrid:
    """The timesteps of a whole generation.

    t: (steps+1, S) float64 on the CPU, in [0, 1], 0 noise and 1 data. visible: (steps, S) bool, which stages the
    network sees during step i, that is from t[i] to t[i+1].
    """

    t: Tensor
    visible: Tensor

    @property
    def num_steps(self) -> int:
        """Number of solver steps."""
        return len(self.visible)

    @property
    def num_stages(self) -> int:
        """Number of stages S."""
        return int(self.t.shape[1])


class StageSchedule(ABC):
    """Decide how the stages move from noise to data.

    Laws: every column starts at 0, never decreases and ends at exactly 1 (only an option may leave stages out for good:
    they stay at 0, and the generation ends with the preview of the others); something moves in every step; a stage that
    is not visible keeps its t; with one stage it is a plain grid. A schedule that declares `progressive` starts stage
    s+1 only when stage s has reached its threshold (see `thresholds`), and its visible stages are a prefix. Options
    that do not fit the number of stages are refused in `__init__`, with ConfigError. A trained model can be given
    another schedule.
    """

    def __init__(self, options: BaseModel, facts: StageScheduleFacts) -> None:
        self.options = options
        self.facts = facts

    @abstractmethod
    def grid(self) -> ScheduleGrid:
        """Return the timesteps of all steps and stages: t (steps+1, S), visible (steps, S); the same at every call."""

    def thresholds(self) -> tuple[float, ...] | None:
        """Return the t in (0, 1] that each stage has reached when the next one starts: of each but the last generated.

        None promises nothing; a schedule that declares `progressive` must promise, and is held to it.
        """
        return None
