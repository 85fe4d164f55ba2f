"""Gaussian data: the flow is linear, so that what generation does to mean and covariance comes out exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from dfm_core.generation import Guidance, guided_velocity
from dfm_core.interfaces.backbone import Conditioning
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageScheduleFacts
from dfm_core.preconditioning import VelocityModel
from dfm_core.solvers import SOLVERS, VelocityField, integrate, make_solver
from dfm_core.stages import Stages
from dfm_plugins.stage_schedules import progressive, simultaneous
from dfm_plugins.stage_schedules.specs import ProgressiveOptions, SimultaneousOptions

Array = NDArray[np.float64]
LENGTH = 8


def average(length: int) -> Array:
    """(length/2, length) matrix that averages pairs."""
    return np.kron(np.eye(length // 2), np.array([[0.5, 0.5]]))


def smooth(length: int) -> Array:
    """(2·length, length) matrix of linear interpolation between the centres of pairs, constant beyond the ends."""
    centres, pixels = np.arange(length) * 2 + 0.5, np.arange(2 * length)
    return np.stack([np.interp(pixels, centres, row) for row in np.eye(length)], 1)


@dataclass(frozen=True)
class Pyramid:
    """Matrices of a residual pyramid on a signal of 8: decompose (D, 8), recompose (8, D), and the stages' lengths."""

    decompose: Array
    recompose: Array
    lengths: list[int]


def pyramid(num_stages: int) -> Pyramid:
    """Redundant: 8 numbers become 12 (two stages) or 14 (three)."""
    lengths = [LENGTH >> s for s in reversed(range(num_stages))]
    rows: list[Array] = []
    low = np.eye(LENGTH)
    for length in reversed(lengths[1:]):
        lower = average(length) @ low
        rows.insert(0, low - smooth(length // 2) @ lower)
        low = lower
    decompose = np.concatenate([low, *rows])
    recompose = np.eye(lengths[0])
    for length in lengths[1:]:
        recompose = np.concatenate([smooth(length // 2) @ recompose, np.eye(length)], 1)
    return Pyramid(decompose, recompose, lengths)


def data_covariance() -> Array:
    """A stationary signal with neighbours correlated by 0.8, brighter to the right."""
    index = np.arange(LENGTH)
    scale = np.linspace(0.6, 1.2, LENGTH)
    return 0.8 ** abs(index[:, None] - index) * np.outer(scale, scale)


def oracle(covariance: Array, lengths: list[int]) -> VelocityField:
    """The velocity E[X_1 − X_0 | X_t] of Gaussian stages. At t = 1 a redundant pyramid makes it 0/0: pseudo-inverse."""

    def velocity(stages: Stages, t: torch.Tensor, visible: torch.Tensor) -> Stages:
        keep = np.diag(np.repeat(t.numpy(), lengths))
        rest = np.eye(len(keep)) - keep
        noisy = keep @ covariance @ keep + rest @ rest
        gain = (covariance @ keep - rest) @ np.linalg.pinv(noisy, rcond=1e-12, hermitian=True)
        return (torch.cat(stages, 1) @ torch.from_numpy(gain.T)).split(lengths, 1)

    return velocity


def flow_matrix(velocity: VelocityField, lengths: list[int], grid: ScheduleGrid, solver: str) -> Array:
    """The linear map (D, D) from noise to stages: unit vectors walked along the grid."""
    noise = torch.eye(sum(lengths), dtype=torch.float64).split(lengths, 1)
    *_, last = integrate(velocity, noise, grid, make_solver(solver))
    return torch.cat(last.stages, 1).numpy().T


def covariance_error(num_stages: int, steps: int, solver: str, threshold: float = 0.9, together: bool = False) -> float:
    """Largest error of the generated signal's covariance; the data's entries are 0.1 to 1.4."""
    parts, data = pyramid(num_stages), data_covariance()
    joint = parts.decompose @ data @ parts.decompose.T
    sigmas = tuple(np.sqrt(part.mean()) for part in np.split(np.diag(joint), np.cumsum(parts.lengths)[:-1]))
    facts = StageScheduleFacts(num_stages, sigmas)
    if together:
        grid = simultaneous.SimultaneousSchedule(SimultaneousOptions(steps=steps, shift="linear"), facts).grid()
    else:
        options = ProgressiveOptions(steps=(steps,) * num_stages, thresholds=(threshold,), shift="auto")
        grid = progressive.ProgressiveSchedule(options, facts).grid()
    flow = parts.recompose @ flow_matrix(oracle(joint, parts.lengths), parts.lengths, grid, solver)
    return abs(flow @ flow.T - data).max()


@pytest.mark.parametrize("num_stages", [2, 3])
def test_the_pyramid_is_redundant_and_reconstructs(num_stages: int) -> None:
    parts = pyramid(num_stages)
    assert sum(parts.lengths) > LENGTH
    np.testing.assert_allclose(parts.recompose @ parts.decompose, np.eye(LENGTH), atol=1e-15)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("num_stages", [1, 2, 3])
def test_generation_reproduces_the_covariance(num_stages: int, solver: str) -> None:
    coarse, fine = (covariance_error(num_stages, steps, solver) for steps in (40, 160))
    assert fine < (0.05 if solver == "euler" else 0.002)
    assert fine < coarse / 3


@pytest.mark.parametrize(("threshold", "together"), [(0.3, False), (1.0, False), (0.9, True)])
def test_the_path_through_the_timesteps_does_not_matter(threshold: float, together: bool) -> None:
    """Threshold 1 stands on the 0/0 for a whole phase; together, the stages reach it at the end only."""
    assert covariance_error(2, 160, "ab2", threshold, together) < 0.002


CLASS_MEAN, CLASS_SIGMA, DATA_SIGMA = (0.7, -0.4), (0.5, 0.2), (1.0, 0.3)


def affine(t: Any, mean: float, sigma: float) -> tuple[Any, Any]:
    """Velocity a·x + b of Gaussian data of this mean and deviation."""
    slope = (t * sigma**2 - (1 - t)) / (t**2 * sigma**2 + (1 - t) ** 2)
    return slope, mean - slope * t * mean


def model(stages: Stages, t: torch.Tensor, visible: torch.Tensor, conditioning: Conditioning) -> Stages:
    """A stand-in for a trained network: label 0 is a Gaussian class, label 1 (none) Gaussian data around zero."""
    label = conditioning.label if conditioning.label is not None else torch.ones(len(t))
    labelled = label[:, None] == 0
    velocities = []
    for s, stage in enumerate(stages):
        time = t[:, s, None].double()
        with_label, without = affine(time, CLASS_MEAN[s], CLASS_SIGMA[s]), affine(time, 0.0, DATA_SIGMA[s])
        slope, offset = (torch.where(labelled, a, b) for a, b in zip(with_label, without, strict=True))
        velocities.append(slope * stage + offset)
    return tuple(velocities)


def predicted(stage: int, weight: float, interval: tuple[float, float]) -> tuple[float, float]:
    """Mean and deviation by scipy: μ' = aμ + b, P' = 2aP, with the guided a and b inside the interval."""

    def rates(t: float, state: Array, guided: float) -> list[float]:
        pairs = zip(affine(t, 0.0, DATA_SIGMA[stage]), affine(t, CLASS_MEAN[stage], CLASS_SIGMA[stage]), strict=True)
        slope, offset = ((1 - guided) * without + guided * with_label for without, with_label in pairs)
        return [slope * state[0] + offset, 2 * slope * state[1]]

    state = [0.0, 1.0]
    for span, guided in (((0, interval[0]), 1.0), (interval, weight), ((interval[1], 1), 1.0)):
        if span[0] < span[1]:
            state = solve_ivp(rates, span, state, args=(guided,), rtol=1e-10, atol=1e-12).y[:, -1]
    return state[0], np.sqrt(state[1])


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.25, 0.75)])
def test_guidance_changes_mean_and_deviation_as_predicted(weight: float, interval: tuple[float, float]) -> None:
    options = ProgressiveOptions.model_validate({"steps": (200, 200), "thresholds": 0.75, "shift": "linear"})
    grid = progressive.ProgressiveSchedule(options, StageScheduleFacts(2, DATA_SIGMA)).grid()
    velocity = guided_velocity(cast(VelocityModel, model), torch.tensor([0, 0]), 1, Guidance(weight, interval))
    noise = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    *_, last = integrate(velocity, (noise, noise), grid, make_solver("midpoint"))
    for stage, final in enumerate(last.stages):
        mean, deviation = predicted(stage, weight, interval)
        assert final[0].item() == pytest.approx(mean, abs=2e-3)
        assert (final[1] - final[0]).item() == pytest.approx(deviation, rel=5e-3)


def test_guidance_sharpens_and_exaggerates() -> None:
    means, deviations = zip(*(predicted(0, weight, (0.0, 1.0)) for weight in (0.0, 1.0, 2.0, 4.0)), strict=True)
    assert means[:2] == pytest.approx((0.0, CLASS_MEAN[0]), abs=1e-6)
    assert deviations[:2] == pytest.approx((DATA_SIGMA[0], CLASS_SIGMA[0]), abs=1e-6)
    assert list(means) == sorted(means)
    assert list(deviations) == sorted(deviations, reverse=True)
