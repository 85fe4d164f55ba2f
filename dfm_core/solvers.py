"""Solvers of the flow over stages: a stage moves where its own t changes, dX_s = v_s · dt_s, and rests elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfm_core.errors import ConfigError, StageShapeError, suggest
from dfm_core.interfaces.path import Phase
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.stages import Stages

VelocityField = Callable[[Stages, Tensor, Tensor], Stages]
"""(stages, t (S,) float64, visible (S,) bool) -> one velocity a stage, of any floating dtype."""
PhaseEntry = Callable[[Stages, Phase], Stages]
"""Stages at the end of one phase -> those with which the next begins; one that stays is the very same tensor."""


@dataclass(frozen=True)
class Interval:
    """One step: all stages go from t = `start` to `stop`, (S,) float64 on the CPU; visible: (S,) bool."""

    start: Tensor
    stop: Tensor
    visible: Tensor

    @property
    def lengths(self) -> tuple[float, ...]:
        """How far each stage goes in its own t; 0 for a stage that rests or is invisible."""
        return tuple(torch.where(self.visible, self.stop - self.start, 0.0).tolist())


@dataclass(frozen=True)
class Memory:
    """What a multi-step solver keeps of the step before: its velocities, and how far each stage went."""

    velocities: Stages
    lengths: tuple[float, ...]


def move(stages: Stages, velocities: Sequence[Tensor], lengths: Sequence[float]) -> Stages:
    """Add length · velocity to each stage, in the stage's dtype; at length 0 the very same tensor comes back."""
    return tuple(
        stage if length == 0 else torch.add(stage, velocity.to(stage.dtype), alpha=length)
        for stage, velocity, length in zip(stages, velocities, lengths, strict=True)
    )


class Solver(ABC):
    """Advance all stages over one interval.

    name: as users type it. order: of the error in the step length. calls_per_step: evaluations of the velocity.
    Solvers hold no state: what a multi-step method remembers goes out and comes in as `memory` (None at the start).
    """

    name: ClassVar[str]
    order: ClassVar[int]
    calls_per_step: ClassVar[int]

    @abstractmethod
    def advance(
        self, velocity: VelocityField, stages: Stages, interval: Interval, memory: Memory | None
    ) -> tuple[Stages, Memory | None]:
        """Return the stages at `interval.stop`, and the memory for the next step. Stages keep dtype and device."""


class Euler(Solver):
    """X + h v(X, t)."""

    name, order, calls_per_step = "euler", 1, 1

    def advance(
        self, velocity: VelocityField, stages: Stages, interval: Interval, memory: Memory | None
    ) -> tuple[Stages, Memory | None]:
        """See `Solver.advance`."""
        return move(stages, velocity(stages, interval.start, interval.visible), interval.lengths), None


class Heun(Solver):
    """The mean of the velocities at both ends, the far end reached by Euler. Explicit trapezoidal rule."""

    name, order, calls_per_step = "heun", 2, 2

    def advance(
        self, velocity: VelocityField, stages: Stages, interval: Interval, memory: Memory | None
    ) -> tuple[Stages, Memory | None]:
        """See `Solver.advance`."""
        lengths = interval.lengths
        first = velocity(stages, interval.start, interval.visible)
        second = velocity(move(stages, first, lengths), interval.stop, interval.visible)
        half = [length / 2 for length in lengths]
        return move(move(stages, first, half), second, half), None


class Midpoint(Solver):
    """The velocity in the middle, reached by Euler."""

    name, order, calls_per_step = "midpoint", 2, 2

    def advance(
        self, velocity: VelocityField, stages: Stages, interval: Interval, memory: Memory | None
    ) -> tuple[Stages, Memory | None]:
        """See `Solver.advance`."""
        lengths = interval.lengths
        first = velocity(stages, interval.start, interval.visible)
        middle = move(stages, first, [length / 2 for length in lengths])
        return move(stages, velocity(middle, (interval.start + interval.stop) / 2, interval.visible), lengths), None


class AdamsBashforth2(Solver):
    """Extrapolate from this velocity and the one before, with weights for unequal steps in each stage's own t.

    X + h ((1 + r) v − r v₋₁), r = h / (2 h₋₁). A stage that rested in the step before starts with Euler (r = 0).
    Hairer, Nørsett, Wanner, Solving ODEs I, section III.5.
    """

    name, order, calls_per_step = "ab2", 2, 1

    def advance(
        self, velocity: VelocityField, stages: Stages, interval: Interval, memory: Memory | None
    ) -> tuple[Stages, Memory | None]:
        """See `Solver.advance`."""
        lengths = interval.lengths
        now = velocity(stages, interval.start, interval.visible)
        before = memory or Memory(now, (0.0,) * len(stages))
        share = [h / (2 * h_before) if h_before else 0.0 for h, h_before in zip(lengths, before.lengths, strict=True)]
        ahead = move(stages, now, [h * (1 + r) for h, r in zip(lengths, share, strict=True)])
        back = [-h * r for h, r in zip(lengths, share, strict=True)]
        return move(ahead, before.velocities, back), Memory(now, lengths)


SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in (Euler, Heun, Midpoint, AdamsBashforth2)}


def make_solver(name: str) -> Solver:
    """Return the solver called `name`; raises ConfigError with the nearest names if there is none."""
    if name not in SOLVERS:
        raise ConfigError(f"unknown solver {name!r}; expected one of {', '.join(SOLVERS)}.{suggest(name, SOLVERS)}")
    return SOLVERS[name]()


@dataclass(frozen=True)
class SolvedStep:
    """The state after a step. step: 1…num_steps. stages: at `t`, (S,) float64, which is row `step` of the grid."""

    step: int
    stages: Stages
    t: Tensor


def integrate(
    velocity: VelocityField,
    stages: Sequence[Tensor],
    grid: ScheduleGrid,
    solver: Solver,
    enter: PhaseEntry | None = None,
) -> Iterator[SolvedStep]:
    """Walk `stages` from noise along the grid, yielding the state after every step.

    stages: S tensors (B, ...) at t = 0, in the dtype in which the state is kept; they are not changed. Only visible
    stages move. enter: what happens where the visible stages change. Raises StageShapeError if their number is not the
    grid's.
    """
    if len(stages) != grid.num_stages:
        raise StageShapeError(f"expected {grid.num_stages} stages, as in the schedule's grid, got {len(stages)}")
    state, memory, phase = tuple(stages), None, 0
    for index, visible in enumerate(grid.visible):
        if enter is not None and index and not torch.equal(visible, grid.visible[index - 1]):
            phase += 1
            entered = enter(state, Phase(phase, grid.t[index], visible, grid.visible[index - 1]))
            # Velocities from before a jump say nothing of what comes after.
            memory = memory if all(a is b for a, b in zip(entered, state, strict=True)) else None
            state = entered
        state, memory = solver.advance(velocity, state, Interval(grid.t[index], grid.t[index + 1], visible), memory)
        yield SolvedStep(index + 1, state, grid.t[index + 1])
