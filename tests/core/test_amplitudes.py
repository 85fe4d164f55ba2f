"""The share of the true amplitude that Euler reaches on Gaussian data: the table of the method, to three digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dfm_core.interfaces.stage_schedule import StageScheduleFacts
from dfm_core.solvers import integrate, make_solver
from dfm_core.stages import Stages
from dfm_plugins.stage_schedules import progressive
from dfm_plugins.stage_schedules.specs import ProgressiveOptions

COLUMNS = [(5, "linear"), (10, "linear"), (20, "linear"), (40, "linear"), (100, "linear"), (10, 0.3), (10, "sigma")]
TABLE = {
    1.0: [0.771, 0.879, 0.938, 0.968, 0.987, 0.823, 0.879],
    0.5: [0.738, 0.862, 0.928, 0.964, 0.985, 0.870, 0.879],
    0.2: [0.569, 0.771, 0.880, 0.938, 0.975, 0.873, 0.879],
    0.11: [0.388, 0.644, 0.811, 0.902, 0.960, 0.841, 0.879],
    0.07: [0.265, 0.506, 0.727, 0.857, 0.940, 0.793, 0.879],
    0.03: [0.119, 0.258, 0.476, 0.700, 0.872, 0.617, 0.879],
}


def c_skip(sigma: float, t: float) -> float:
    """The velocity of Gaussian data is c_skip · X_t."""
    return (t * sigma**2 - (1 - t)) / (t**2 * sigma**2 + (1 - t) ** 2)


def amplitude(sigmas: Any, solver: str = "euler", **options: Any) -> list[float]:
    """Final over true amplitude of each stage, for independent Gaussian stages."""
    grid = progressive.ProgressiveSchedule(
        ProgressiveOptions.model_validate(options), StageScheduleFacts(len(sigmas), sigmas)
    ).grid()

    def velocity(stages: Stages, t: torch.Tensor, visible: torch.Tensor) -> Stages:
        return tuple(c_skip(s, time) * x for s, x, time in zip(sigmas, stages, t, strict=True))

    *_, last = integrate(velocity, [torch.ones(1, 1).double()] * len(sigmas), grid, make_solver(solver))
    return [x.item() / s for x, s in zip(last.stages, sigmas, strict=True)]


@pytest.mark.parametrize("sigma", TABLE)
@pytest.mark.parametrize("column", range(len(COLUMNS)), ids=lambda i: f"{COLUMNS[i][0]} steps, {COLUMNS[i][1]}")
def test_euler_reaches_the_amplitude_of_the_table(sigma: float, column: int) -> None:
    steps, shift = COLUMNS[column]
    (reached,) = amplitude((sigma,), steps=steps, shift=sigma if shift == "sigma" else shift)
    assert f"{reached:.3f}" == f"{TABLE[sigma][column]:.3f}"


@pytest.mark.parametrize("sigma", [1.0, 0.5, 0.2, 0.11, 0.07])
def test_auto_is_the_last_column(sigma: float) -> None:
    (reached,) = amplitude((sigma,), steps=10)
    assert f"{reached:.3f}" == "0.879"


def test_a_later_stage_has_its_own_column() -> None:
    """Stage 2 of a progressive schedule moves in its phase only, so the table holds for it."""
    assert f"{amplitude((1.0, 0.11), steps=(30, 10), shift='linear')[1]:.3f}" == "0.644"
    assert f"{amplitude((1.0, 0.11), steps=(30, 10))[1]:.3f}" == "0.879"


@pytest.mark.parametrize("solver", ["heun", "midpoint", "ab2"])
def test_second_order_is_nearer_at_equal_calls(solver: str) -> None:
    steps = 20 if solver == "ab2" else 10
    (reached,) = amplitude((0.11,), solver=solver, steps=steps)
    (euler,) = amplitude((0.11,), steps=20)
    assert abs(reached - 1) < abs(euler - 1)
