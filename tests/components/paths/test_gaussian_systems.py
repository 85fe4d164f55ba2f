"""Gaussian data: every system's velocity is known in closed form, and generation must give the data's covariance back.

The velocities are written from the formulas of the papers, in matrices; schedules, paths and solvers are the real ones.
A batch of unit vectors for all noise that enters makes the covariance of the result exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dfm_core.interfaces.decomposition import Decomposition, DecompositionFacts
from dfm_core.interfaces.path import PathFacts, Phase, ProbabilityPath
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageScheduleFacts
from dfm_core.plugins.registry import default_registry
from dfm_core.solvers import integrate, make_solver
from dfm_core.stages import StageLayout, Stages

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Linear:
    """Noisy stages or velocities as data @ pixels + noise @ noise, one row a number of a stage."""

    data: Array
    noise: Array

    def rows(self, chosen: Array) -> Linear:
        return Linear(self.data[chosen], self.noise[chosen])

    def covariance(self, other: Linear, pixels: Array) -> Array:
        return self.data @ pixels @ other.data.T + self.noise @ other.noise.T


Formula = Callable[[Array], tuple[Linear, Linear]]
"""t (S,) -> noisy stages and velocities."""


def covariance_of_pixels(size: int, frames: int = 1) -> Array:
    """Neighbours correlated by 0.8 along both axes, brighter to the right and darker to the bottom; frames by 0.7."""
    index = np.arange(size)
    along = 0.8 ** abs(index[:, None] - index)
    columns, rows = np.linspace(0.6, 1.2, size), np.linspace(1.1, 0.7, size)
    picture = np.kron(along * np.outer(rows, rows), along * np.outer(columns, columns))
    return np.kron(0.7 ** abs(np.arange(frames)[:, None] - np.arange(frames)), picture)


def mean_of_pixels(fine: int, coarse: int, frames: int = 1) -> Array:
    """(frames·coarse², frames·fine²): means over squares of a frame."""
    along = np.kron(np.eye(coarse), np.ones((1, fine // coarse))) * coarse / fine
    return np.kron(np.eye(frames), np.kron(along, along))


def nearest(side: int, frames: int = 1) -> Array:
    """(frames·side², frames·(side/2)²): every pixel four times."""
    return 4 * mean_of_pixels(side, side // 2, frames).T


def matrices(decomposition: Decomposition) -> list[Array]:
    """Each stage as a matrix on the pixels: unit images decomposed."""
    size = decomposition.facts.stage_sizes[-1]
    units = torch.eye(math.prod(size), dtype=torch.float64).reshape(-1, 1, *size)
    return [stage.flatten(1).numpy().T for stage in decomposition.decompose(units)]


def straight_lines(stages: list[Array]) -> Formula:
    """X = t·x + (1 − t)·n and v = x − n in every stage."""

    def at(t: Array) -> tuple[Linear, Linear]:
        every = np.repeat(t, [len(stage) for stage in stages])[:, None]
        data, noise = np.concatenate(stages), np.eye(len(every))
        return Linear(every * data, (1 - every) * noise), Linear(data, -noise)

    return at


def pyramidal_flow(size: int, num_stages: int, frames: int = 1) -> Formula:
    """From s'ε + (1 − s')·Up(x_{k−1}) to eε + (1 − e)·x_k. For γ = 1/3: s' = 2s/(1 + s), s = 1 − k/K."""
    sizes = [size >> (num_stages - 1 - k) for k in range(num_stages)]
    lengths = [frames * side * side for side in sizes]

    def at(t: Array) -> tuple[Linear, Linear]:
        noisy, velocities = [], []
        for k, side in enumerate(sizes):
            s, end = 1 - k / num_stages, 1 - (k + 1) / num_stages
            start = 2 * s / (1 + s)
            fine = mean_of_pixels(size, side, frames)
            coarse = nearest(side, frames) @ mean_of_pixels(size, side // 2, frames) if k else np.zeros_like(fine)
            first, last = (1 - start) * coarse, (1 - end) * fine
            own = np.eye(sum(lengths))[sum(lengths[:k]) : sum(lengths[: k + 1])]
            noisy.append(Linear((1 - t[k]) * first + t[k] * last, ((1 - t[k]) * start + t[k] * end) * own))
            velocities.append(Linear(last - first, (end - start) * own))
        return stacked(noisy), stacked(velocities)

    return at


def stacked(parts: list[Linear]) -> Linear:
    return Linear(np.concatenate([part.data for part in parts]), np.concatenate([part.noise for part in parts]))


@dataclass(frozen=True)
class System:
    """What generates: its decomposition, path and schedule, and the formula of its noisy stages."""

    decomposition: Decomposition
    path: ProbabilityPath
    grid: ScheduleGrid
    formula: Formula

    @property
    def layout(self) -> StageLayout:
        return self.decomposition.layout((1, *self.decomposition.facts.stage_sizes[-1]))

    @property
    def size(self) -> int:
        return self.layout[-1].shape[-1]

    @property
    def frames(self) -> int:
        return math.prod(self.layout[-1].shape[:-2])

    @property
    def lengths(self) -> list[int]:
        return [stage.numel for stage in self.layout]

    def velocity(self, stages: Stages, t: Tensor, visible: Tensor) -> Stages:
        """E[v | noisy visible stages]; at t = 1 a redundant pyramid makes it 0/0: pseudo-inverse."""
        noisy, velocities = self.formula(self.path.state_time(t, visible).numpy())
        seen = np.repeat(visible.numpy(), self.lengths)
        pixels = covariance_of_pixels(self.size, self.frames)
        known = noisy.rows(seen)
        inverse = np.linalg.pinv(known.covariance(known, pixels), rcond=1e-11, hermitian=True)
        gain = np.zeros((len(seen), len(seen)))
        gain[np.ix_(seen, seen)] = velocities.rows(seen).covariance(known, pixels) @ inverse
        flat = torch.cat([stage.flatten(1) for stage in stages], 1) @ torch.from_numpy(gain.T)
        return tuple(part.reshape(s.shape) for part, s in zip(flat.split(self.lengths, 1), stages, strict=True))

    def generate(self, solver: str) -> list[Stages]:
        """The stages at the end of each phase, as linear maps: one sample for each number that is drawn."""
        phases = 1 + int((self.grid.visible[1:] != self.grid.visible[:-1]).any(1).sum())
        units = torch.eye(phases * sum(self.lengths), dtype=torch.float64).split(sum(self.lengths), 1)
        drawn = [
            tuple(part.reshape(-1, *s.shape) for part, s in zip(unit.split(self.lengths, 1), self.layout, strict=True))
            for unit in units
        ]

        def enter(stages: Stages, phase: Phase) -> Stages:
            return self.path.enter_phase(stages, phase, lambda index: drawn[phase.index][index])

        steps = list(integrate(self.velocity, drawn[0], self.grid, make_solver(solver), enter))
        changes = (self.grid.visible[1:] != self.grid.visible[:-1]).any(1).nonzero().flatten().tolist()
        return [steps[index].stages for index in [*changes, len(steps) - 1]]


def system(name: str, num_stages: int, steps: int, frames: int = 0) -> System:
    """Make one of the four, with `steps` steps a stage. frames: of clips; 0 for images."""
    size = max(4, 2**num_stages)
    registry = default_registry()
    split, path, schedule, options = {
        "flow matching": ("identity", "straight", "progressive", {"shift": "linear"}),
        "dfm": ("laplacian", "straight", "progressive", {"shift": "linear", "thresholds": 0.9}),
        "cascaded": ("downsampled", "cascaded", "progressive", {"shift": "linear", "thresholds": 1.0}),
        "pyramidal flow": ("downsampled", "pyramidal", "consecutive", {}),
    }[name]
    time = (frames,) if frames else ()
    sizes = tuple((*time, size >> s, size >> s) for s in reversed(range(num_stages)))
    decomposition = registry.create("decomposition", split, {}, DecompositionFacts(sizes, 1))
    layout = decomposition.layout((1, *sizes[-1]))
    facts = PathFacts(layout, (1.0,) * num_stages, decomposition.whole_stages)
    made = registry.create("path", path, {}, facts)
    given = {**options, "steps": (steps,) * num_stages}
    grid = registry.create(
        "stage_schedule", schedule, given, StageScheduleFacts(num_stages, (1.0,) * num_stages)
    ).grid()
    made.check_grid(grid)
    if name == "pyramidal flow":
        return System(decomposition, made, grid, pyramidal_flow(size, num_stages, frames or 1))
    return System(decomposition, made, grid, straight_lines(matrices(decomposition)))


def covariance(maps: Tensor) -> Array:
    """Of a linear map (drawn numbers, C, H, W) of white noise."""
    flat = maps.flatten(1).numpy()
    return flat.T @ flat


def errors(made: System, solver: str) -> list[float]:
    """Largest error of the covariance of the generated picture or clip, at every stage's size."""
    final = made.generate(solver)[-1]
    picture = covariance(made.decomposition.recompose(final))
    pixels = covariance_of_pixels(made.size, made.frames)
    reduced = [mean_of_pixels(made.size, size[-1], made.frames) for size in made.decomposition.facts.stage_sizes]
    return [abs(mean @ (picture - pixels) @ mean.T).max() for mean in reduced]


SYSTEMS = [
    ("flow matching", 1, 0),
    *((name, count, 0) for name in ("dfm", "cascaded", "pyramidal flow") for count in (2, 3)),
    *((name, 2, 3) for name in ("cascaded", "pyramidal flow")),
]


@pytest.mark.parametrize(("name", "num_stages", "frames"), SYSTEMS)
def test_the_covariance_comes_back_at_every_scale(name: str, num_stages: int, frames: int) -> None:
    coarse, fine = (errors(system(name, num_stages, steps, frames), "euler") for steps in (20, 80))
    for first, second in zip(coarse, fine, strict=True):
        assert second < 0.07
        assert second < first / 3.5


@pytest.mark.parametrize(("name", "num_stages", "frames"), SYSTEMS)
def test_a_second_order_solver_leaves_nothing(name: str, num_stages: int, frames: int) -> None:
    assert max(errors(system(name, num_stages, 40, frames), "midpoint")) < 1e-4


@pytest.mark.parametrize(("num_stages", "frames"), [(2, 0), (3, 0), (2, 3)])
def test_pyramidal_stages_end_with_the_share_of_noise_that_the_next_begins_with(num_stages: int, frames: int) -> None:
    made = system("pyramidal flow", num_stages, 20, frames)
    for k, stages in enumerate(made.generate("midpoint")):
        noise = 1 - (k + 1) / num_stages
        mean = mean_of_pixels(made.size, made.size >> (num_stages - 1 - k), made.frames)
        pixels = covariance_of_pixels(made.size, made.frames)
        want = (1 - noise) ** 2 * mean @ pixels @ mean.T + noise**2 * np.eye(len(mean))
        np.testing.assert_allclose(covariance(stages[k]), want, atol=1e-4)


def test_a_cascade_without_renoising_is_told_the_wrong_time() -> None:
    """The finished stage kept clean while the network takes it for noisy: the covariance is missed."""

    class Clean(type(system("cascaded", 2, 1).path)):  # type: ignore[misc]
        def enter_phase(self, stages: Stages, phase: Phase, noise: object) -> Stages:
            return stages

    made = system("cascaded", 2, 40)
    options = type(made.path.options)(condition_noise=0.3)
    right, wrong = (
        System(made.decomposition, kind(options, made.path.facts), made.grid, made.formula)
        for kind in (type(made.path), Clean)
    )
    assert max(errors(right, "midpoint")) < 1e-4
    assert max(errors(wrong, "midpoint")) > 0.05
