"""Stages, noise and phases for the laws of paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from dfm_core.conformance.law import LawBroken
from dfm_core.errors import CompositionError
from dfm_core.interfaces.path import Phase, ProbabilityPath
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.randomness import derive_generator
from dfm_core.stages import Stages

STEPS = 4


@dataclass(frozen=True)
class Entry:
    """A phase that has just begun. stages: with which it begins. t: (S,) float64, their `state_time`."""

    phase: Phase
    stages: Stages
    t: Tensor


def stages_of(path: ProbabilityPath, x: Tensor) -> Stages:
    """Clean stages for the path's facts: x (B, 1, *size) averaged to each size; without `whole_stages`, what that
    misses of the enlarged one before."""
    sizes = [stage.shape[1:] for stage in path.facts.layout]
    pictures = [F.interpolate(x, size, mode="area") for size in sizes]
    if path.facts.whole_stages:
        return tuple(pictures)
    enlarged = [F.interpolate(picture, size) for picture, size in zip(pictures[:-1], sizes[1:], strict=True)]
    return (pictures[0], *(fine - coarse for fine, coarse in zip(pictures[1:], enlarged, strict=True)))


def noise_for(stages: Stages, purpose: str) -> Stages:
    """Standard normal noise whose mean square is exactly 1 in every stage."""
    generator = derive_generator(0, "conformance", "path", purpose)
    draws = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in stages)
    return tuple(draw / draw.square().mean().sqrt() for draw in draws)


def sigmas_of(stages: Stages) -> Tensor:
    """Root mean square of each stage, (S,)."""
    return torch.stack([stage.square().mean().sqrt() for stage in stages])


def times(path: ProbabilityPath, batch: int, value: float) -> Tensor:
    """(B, S) timesteps, all of one value."""
    return torch.full((batch, path.facts.num_stages), value, dtype=torch.float64)


def walked(path: ProbabilityPath, data: Stages, noise: Stages, t: Tensor) -> tuple[Stages, Stages]:
    """Noisy stages and velocities; copies are handed out, so that a path that writes into them breaks one law only."""
    return path.at(tuple(x.clone() for x in data), tuple(n.clone() for n in noise), t.clone())


def accepted_grids(path: ProbabilityPath) -> list[ScheduleGrid]:
    """The schedules among four that the path accepts. Raises LawBroken if it is none."""
    num_stages = path.facts.num_stages
    accepted = []
    for grid in (_prefixes(num_stages, 0.9), _prefixes(num_stages, 1.0), _alone(num_stages), _together(num_stages)):
        try:
            path.check_grid(grid)
        except CompositionError:
            continue
        accepted.append(grid)
    if not accepted:
        raise LawBroken("check_grid refuses stages one after the other, alone, and together; accept one of these")
    return accepted


def entries(path: ProbabilityPath, grid: ScheduleGrid, data: Stages, noise: Stages) -> Iterator[Entry]:
    """Go through the phases of a generation that inside each of them is perfect: it reaches what `at` says."""
    state, before = noise, grid.t[0]
    for step in range(1, grid.num_steps):
        visible, previous = grid.visible[step], grid.visible[step - 1]
        if torch.equal(visible, previous):
            continue
        now = grid.t[step]
        reached, _ = walked(path, data, noise, now.expand(len(data[0]), -1))
        moved = (now != before).tolist()
        state = tuple(new if has_moved else old for new, old, has_moved in zip(reached, state, moved, strict=True))
        phase = Phase(1 + int((grid.visible[1:step] != grid.visible[: step - 1]).any(1).sum()), now, visible, previous)
        fresh = partial(_fresh, noise_for(data, f"phase {phase.index}"))
        state = path.enter_phase(state, phase, fresh)
        before = now
        yield Entry(phase, state, path.state_time(now, visible))


def _fresh(noise: Stages, stage_index: int) -> Tensor:
    return noise[stage_index]


def _prefixes(num_stages: int, threshold: float) -> ScheduleGrid:
    """The first k stages in phase k, each up to a threshold, then slowly on to 1."""
    steps = torch.arange(STEPS * num_stages + 1, dtype=torch.float64)[:, None]
    starts = STEPS * torch.arange(num_stages)
    rest = (steps[-1] - starts - STEPS).clamp(min=1)
    t = torch.where(
        steps <= starts + STEPS,
        threshold * (steps - starts).clamp(min=0) / STEPS,
        threshold + (1 - threshold) * (steps - starts - STEPS) / rest,
    )
    t[STEPS * (num_stages - 1) :, -1] = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
    t[-1] = 1.0
    return ScheduleGrid(t, steps[:-1] >= starts)


def _alone(num_stages: int) -> ScheduleGrid:
    """Stage k alone in phase k, from 0 to 1."""
    steps = torch.arange(STEPS * num_stages + 1, dtype=torch.float64)[:, None]
    starts = STEPS * torch.arange(num_stages)
    return ScheduleGrid(((steps - starts) / STEPS).clamp(0, 1), (steps[:-1] >= starts) & (steps[:-1] < starts + STEPS))


def _together(num_stages: int) -> ScheduleGrid:
    """All stages in one phase."""
    t = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)[:, None].repeat(1, num_stages)
    return ScheduleGrid(t, torch.ones(STEPS, num_stages, dtype=torch.bool))
