"""The solvers' bookkeeping: calls, rests, dtypes, weights. Their orders are measured in test_mixture.py."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from dfm_core.errors import ConfigError, StageShapeError
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.solvers import SOLVERS, Interval, SolvedStep, VelocityField, integrate, make_solver
from dfm_core.stages import Stages

# Stage 1 rests in the middle; stage 2 wakes in step 2; unequal steps.
T: list[list[float]] = [[0, 0], [0.3, 0], [0.5, 0.1], [0.5, 0.4], [1, 1]]
VISIBLE = [[1, 0], [1, 1], [1, 1], [1, 1]]


def grid(t: Any = T, visible: Any = VISIBLE) -> ScheduleGrid:
    return ScheduleGrid(torch.tensor(t, dtype=torch.float64), torch.tensor(visible, dtype=torch.bool))


def noise(dtype: torch.dtype = torch.float64) -> Stages:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 1, 2, generator=generator).to(dtype), torch.randn(3, 1, 4, generator=generator).to(dtype)


def power_of_time(exponent: float) -> VelocityField:
    """Velocity t_s ** exponent for stage s."""

    def velocity(stages: Stages, t: torch.Tensor, visible: torch.Tensor) -> Stages:
        return tuple(torch.full_like(x, float(time) ** exponent) for x, time in zip(stages, t, strict=True))

    return velocity


def solve(name: str, velocity: VelocityField, stages: Any = None, on: ScheduleGrid | None = None) -> list[SolvedStep]:
    return list(integrate(velocity, stages or noise(), on or grid(), make_solver(name)))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_constant_velocity_is_exact(name: str) -> None:
    states = solve(name, power_of_time(0))
    assert [state.step for state in states] == [1, 2, 3, 4]
    for state, row in zip(states, T[1:], strict=True):
        assert state.t.tolist() == row
        for stage, start, t in zip(state.stages, noise(), row, strict=True):
            torch.testing.assert_close(stage, start + t, atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_stage_that_rests_is_the_same_tensor(name: str) -> None:
    states = solve(name, power_of_time(1))
    start = noise()
    waiting = next(integrate(power_of_time(1), start, grid(), make_solver(name)))
    assert waiting.stages[1] is start[1]
    assert states[2].stages[0] is states[1].stages[0]


@pytest.mark.parametrize("name", SOLVERS)
def test_what_an_invisible_stage_gets_changes_nothing(name: str) -> None:
    def broken(stages: Stages, t: torch.Tensor, visible: torch.Tensor) -> Stages:
        clean = power_of_time(1)(stages, t, visible)
        return tuple(v if seen else v * float("nan") for v, seen in zip(clean, visible.tolist(), strict=True))

    clean, dirty = solve(name, power_of_time(1)), solve(name, broken)
    assert all(torch.equal(a, b) for a, b in zip(clean[-1].stages, dirty[-1].stages, strict=True))


@pytest.mark.parametrize("name", SOLVERS)
def test_an_invisible_stage_does_not_move_even_where_its_time_does(name: str) -> None:
    start = noise()
    (state,) = solve(name, power_of_time(0), start, grid([[0, 0], [1, 1]], [[1, 0]]))
    assert state.stages[1] is start[1]
    assert not torch.equal(state.stages[0], start[0])


@pytest.mark.parametrize("name", SOLVERS)
def test_declared_calls_are_the_calls_made(name: str) -> None:
    times = []

    def counting(stages: Stages, t: torch.Tensor, visible: torch.Tensor) -> Stages:
        times.append(t.tolist())
        return power_of_time(0)(stages, t, visible)

    steps = len(solve(name, counting))
    solver = SOLVERS[name]
    assert solver.name == name
    assert len(times) == steps * solver.calls_per_step
    assert times[:: solver.calls_per_step] == T[:-1]
    second = {"heun": T[1:], "midpoint": ((np.array(T[1:]) + np.array(T[:-1])) / 2).tolist()}
    assert times[1 :: solver.calls_per_step] == second.get(name, T[1:-1])


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_keeps_its_precision(name: str, dtype: torch.dtype) -> None:
    def coarse(stages: Stages, t: torch.Tensor, visible: torch.Tensor) -> Stages:
        return tuple(v.bfloat16() for v in power_of_time(0)(stages, t, visible))

    start = noise(dtype)
    kept = [x.clone() for x in start]
    final = solve(name, coarse, start)[-1].stages
    assert all(x.dtype == dtype for x in final)
    assert all(torch.equal(a, b) for a, b in zip(start, kept, strict=True)), "the noise is not changed"
    for stage, begin in zip(final, start, strict=True):
        torch.testing.assert_close(stage, begin + 1, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["heun", "midpoint"])
def test_two_calls_are_exact_for_a_velocity_linear_in_time(name: str) -> None:
    final = solve(name, power_of_time(1))[-1].stages
    for stage, begin in zip(final, noise(), strict=True):
        torch.testing.assert_close(stage, begin + 0.5, atol=1e-14, rtol=0)


def test_adams_bashforth_has_the_weights_of_unequal_steps() -> None:
    """Each stage in its own t: the integral of the line through the last two velocities, Euler after a rest."""
    states = solve("ab2", power_of_time(2))
    for stage in range(2):
        t = [row[stage] for row in T]
        want, last = 0.0, None
        for now, then in itertools.pairwise(t):
            if now == then:
                last = None
                continue
            if last is None:
                want += (then - now) * now**2
            else:
                slope = (now**2 - last**2) / (now - last)
                want += (then - now) * now**2 + slope * (then - now) ** 2 / 2
            last = now
        moved = states[-1].stages[stage] - noise()[stage]
        torch.testing.assert_close(moved, torch.full_like(moved, want), atol=1e-14, rtol=0)


def test_solvers_keep_nothing_between_integrations() -> None:
    solver = make_solver("ab2")
    runs = [list(integrate(power_of_time(2), noise(), grid(), solver))[-1].stages for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_interval_lengths() -> None:
    interval = Interval(
        torch.tensor([0.1, 0.0]).double(), torch.tensor([0.4, 0.5]).double(), torch.tensor([True, False])
    )
    assert interval.lengths[0] == pytest.approx(0.3, abs=1e-7)
    assert interval.lengths[1] == 0


def test_unknown_solver_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown solver 'huen'; expected one of euler, .*'heun'"):
        make_solver("huen")


def test_wrong_number_of_stages() -> None:
    with pytest.raises(StageShapeError, match=r"expected 2 stages.*got 1"):
        next(integrate(power_of_time(0), noise()[:1], grid(), make_solver("euler")))
