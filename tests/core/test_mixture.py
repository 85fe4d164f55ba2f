"""Convergence orders, on a two-component Gaussian mixture whose velocity is known in closed form, in float64."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from dfm_core.interfaces.stage_schedule import StageScheduleFacts
from dfm_core.solvers import SOLVERS, integrate, make_solver
from dfm_core.stages import Stages
from dfm_plugins.stage_schedules import progressive
from dfm_plugins.stage_schedules.specs import ProgressiveOptions

Array = NDArray[np.float64]
WEIGHTS = np.array([0.35, 0.65])
MEANS = {1: np.array([[-1.2], [0.8]]), 2: np.array([[-1.2, 0.3], [0.8, -0.4]])}
COVARIANCES = {
    1: np.array([[[0.09]], [[0.25]]]),
    2: np.array([[[0.09, 0.04], [0.04, 0.16]], [[0.25, -0.05], [-0.05, 0.09]]]),
}
TAU = 0.8
NOISE = np.array([[-1.7, 0.4], [-0.9, -1.3], [-0.2, 0.8], [0.1, -0.5], [0.6, 1.9], [1.4, -0.1]])


def mixture_velocity(x: Array, t: Array) -> Array:
    """E[X_1 − X_0 | X_t = x] with a time for each stage. x: (B, S), one element a stage. t: (S,)."""
    means, covariances, keep = MEANS[len(t)], COVARIANCES[len(t)], np.diag(t)
    rest = np.eye(len(t)) - keep
    logits, velocities = [], []
    for weight, mean, covariance in zip(WEIGHTS, means, covariances, strict=True):
        noisy = keep @ covariance @ keep + rest @ rest
        centred = x - keep @ mean
        solved = np.linalg.solve(noisy, centred.T).T
        logits.append(np.log(weight) - 0.5 * (centred * solved).sum(1) - 0.5 * np.linalg.slogdet(noisy)[1])
        velocities.append(mean + solved @ (covariance @ keep - rest).T)
    shares = np.exp(logits - np.logaddexp.reduce(logits))[..., None]
    return (shares * np.array(velocities)).sum(0)


def as_field(stages: Stages, t: torch.Tensor, visible: torch.Tensor) -> Stages:
    """The same for solvers: stages are (B, 1)."""
    velocities = mixture_velocity(torch.cat(stages, 1).numpy(), t.numpy())
    return tuple(torch.from_numpy(velocities).split(1, 1))


def exact_one_stage() -> Array:
    """In one dimension the flow is monotone, so that it maps quantiles of the noise to quantiles of the mixture."""
    parts = [NormalDist(m, math.sqrt(v)) for m, v in zip(MEANS[1].ravel(), COVARIANCES[1].ravel(), strict=True)]

    def cumulative(x: float) -> float:
        return sum(w * part.cdf(x) for w, part in zip(WEIGHTS, parts, strict=True))

    targets = [NormalDist().cdf(x) for x in NOISE[:, 0]]
    return np.array([[brentq(lambda x, p=p: cumulative(x) - p, -9, 9, xtol=1e-14)] for p in targets])


def exact_two_stages(shifts: tuple[float, ...]) -> Array:
    """scipy's integrator over the continuous path: stage 1 to τ, then both to 1."""
    corners = [k * TAU / (1 - TAU + k * TAU) for k in shifts]
    legs = [((0, 0), (corners[0], 0)), ((corners[0], 0), (1, 1))]
    k, x = np.array(shifts), NOISE
    for begin, end in legs:
        speed = np.subtract(end, begin)

        def slope(u: float, flat: Array, begin: Any = begin, speed: Any = speed) -> Array:
            p = begin + u * speed
            denominator = p + k * (1 - p)
            rate = k / denominator**2 * speed
            return (rate * mixture_velocity(flat.reshape(-1, 2), p / denominator)).ravel()

        x = solve_ivp(slope, (0, 1), x.ravel(), method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1].reshape(-1, 2)
    return x


def generated(name: str, num_stages: int, steps: int, shifts: tuple[float, ...]) -> Array:
    options = ProgressiveOptions(steps=(steps,) * num_stages, thresholds=(TAU,), shift=shifts)
    grid = progressive.ProgressiveSchedule(options, StageScheduleFacts(num_stages, (1.0,) * num_stages)).grid()
    stages = torch.from_numpy(NOISE[:, :num_stages]).split(1, 1)
    *_, last = integrate(as_field, stages, grid, make_solver(name))
    return torch.cat(last.stages, 1).numpy()


def measured_order(name: str, exact: Any, shifts: tuple[float, ...]) -> float:
    """Slope of the error over the last halving of the steps."""
    coarse, fine = (abs(generated(name, len(shifts), steps, shifts) - exact).max() for steps in (128, 256))
    return math.log2(coarse / fine)


@pytest.mark.parametrize("shift", [1.0, 0.4])
@pytest.mark.parametrize("name", SOLVERS)
def test_declared_order_with_one_stage(name: str, shift: Any) -> None:
    assert measured_order(name, exact_one_stage(), (shift,)) == pytest.approx(SOLVERS[name].order, abs=0.2)


@pytest.fixture(scope="module", params=[(1.0, 1.0), (0.7, 0.4)], ids=["linear", "shifted"])
def two_stages(request: pytest.FixtureRequest) -> tuple[tuple[float, ...], Array]:
    return request.param, exact_two_stages(request.param)


@pytest.mark.parametrize("name", SOLVERS)
def test_declared_order_with_two_stages(name: str, two_stages: Any) -> None:
    shifts, exact = two_stages
    assert measured_order(name, exact, shifts) == pytest.approx(SOLVERS[name].order, abs=0.2)


def test_two_stages_generate_the_mixture() -> None:
    """Mean and covariance of what comes out, with many noises: nothing is lost by generating in two phases."""
    noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)).double()
    grid = progressive.ProgressiveSchedule(
        ProgressiveOptions(steps=(40, 40), thresholds=(TAU,), shift="linear"), StageScheduleFacts(2, (1.0, 1.0))
    ).grid()
    *_, last = integrate(as_field, noise.split(1, 1), grid, make_solver("heun"))
    samples = torch.cat(last.stages, 1).numpy()
    mean = WEIGHTS @ MEANS[2]
    spread = MEANS[2] - mean
    covariance = np.einsum("k,kij->ij", WEIGHTS, COVARIANCES[2] + spread[:, :, None] * spread[:, None, :])
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=0.03)
