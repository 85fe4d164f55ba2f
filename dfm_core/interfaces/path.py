"""Kind `path`: what lies between the noise and the data of every stage, in training and in generation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel
from torch import Tensor

from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.stages import StageLayout, Stages

FreshNoise = Callable[[int], Tensor]
"""Stage index -> standard normal noise of the shape of that stage, the same at every call within one phase."""


@dataclass(frozen=True)
class PathFacts:
    """What core computes for a path.

    layout: shapes of the stages at the training size. stage_scales: by what each stage was divided before noising (1
    where it was not). whole_stages: what the decomposition says of itself, see `Decomposition.whole_stages`.
    """

    layout: StageLayout
    stage_scales: tuple[float, ...]
    whole_stages: bool

    @property
    def num_stages(self) -> int:
        """Number of stages S."""
        return len(self.layout)


@dataclass(frozen=True)
class Moments:
    """Second moments of a stage's noisy values X and of its velocities v, each of the shape of t.

    Means over samples, channels and positions. noisy: E[X²]. cross: E[v·X]. velocity: E[v²]. gram_root:
    √(E[X²]·E[v²] − E[v·X]²) where it is known in closed form; None computes it, which loses digits where v follows X.
    """

    noisy: Tensor
    cross: Tensor
    velocity: Tensor
    gram_root: Tensor | None = None


@dataclass(frozen=True)
class Phase:
    """A part of a generation in which the same stages are visible, as it begins.

    index: from 0. t: (S,) float64, of the schedule. visible, previous: (S,) bool, now and in the phase before.
    """

    index: int
    t: Tensor
    visible: Tensor
    previous: Tensor


class ProbabilityPath(ABC):
    """Decide what a stage looks like at time t, how fast it moves, and what happens where one stage follows another.

    Laws: the velocity is the derivative of the noisy stage in t; the first stage is noise alone at t = 0, the last one
    data alone at t = 1; samples do not influence each other; nothing is random but the noise that is given; `moments`
    are those of `at`; the stages that a phase of generation begins with have the second moments that training gave them
    at their `state_time`; `told_time` stays in [0, 1] and grows with t.

    Core derives the preconditioning from `moments`. A path holds no weights and no state.
    """

    def __init__(self, options: BaseModel, facts: PathFacts) -> None:
        self.options = options
        self.facts = facts

    @abstractmethod
    def at(self, data: Sequence[Tensor], noise: Sequence[Tensor], t: Tensor) -> tuple[Stages, Stages]:
        """Return the noisy stages and their velocities at the times t.

        data, noise: S tensors (B, C_s, *spatial_s). t: (B, S) in [0, 1]. Both results have the shapes of data.
        """

    @abstractmethod
    def moments(self, t: Tensor, stage_sigmas: Tensor) -> Moments:
        """Return the second moments at times t (..., S) of stages of root mean square `stage_sigmas` (S,)."""

    def told_time(self, t: Tensor, visible: Tensor) -> Tensor:
        """Return what the network is told in the place of t: (B, S) in [0, 1]. Default: t itself."""
        return t

    def check_grid(self, grid: ScheduleGrid) -> None:  # noqa: B027 (a default, no duty)
        """Raise CompositionError for a schedule along which this path cannot be walked. Default: any will do."""

    def enter_phase(self, stages: Stages, phase: Phase, noise: FreshNoise) -> Stages:
        """Return the stages with which a phase after the first begins. Default: those with which the last one ended.

        stages: S tensors (B, C_s, *spatial_s), not to be changed; a tensor that stays is returned itself.
        """
        return stages

    def state_time(self, t: Tensor, visible: Tensor) -> Tensor:
        """Return the t of training that the stages are at in generation, (S,) float64. Default: t of the schedule.

        t: (S,) float64. visible: (S,) bool.
        """
        return t
