"""What the built-in samplers draw, against independent lines and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dfm_core.errors import ConfigError
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageScheduleFacts
from dfm_core.interfaces.timestep_sampler import TimestepSamplerFacts
from dfm_core.plugins import Options
from dfm_core.schedule_coverage import unseen_stage_sets
from dfm_plugins.stage_schedules import progressive as progressive_schedule
from dfm_plugins.stage_schedules import simultaneous as simultaneous_schedule
from dfm_plugins.stage_schedules import specs as schedule_specs
from dfm_plugins.timestep_samplers import consecutive, progressive, tied, trajectory, uniform
from dfm_plugins.timestep_samplers.specs import (
    ConsecutiveOptions,
    ProgressiveOptions,
    TiedOptions,
    TrajectoryOptions,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def schedule_grid(num_stages: int, **options: Any) -> ScheduleGrid:
    facts = StageScheduleFacts(num_stages, (1.0, 0.3, 0.1)[:num_stages])
    return progressive_schedule.ProgressiveSchedule(
        schedule_specs.ProgressiveOptions.model_validate(options), facts
    ).grid()


def facts(num_stages: int, grid: ScheduleGrid | None = None) -> TimestepSamplerFacts:
    return TimestepSamplerFacts(num_stages, grid or schedule_grid(num_stages))


def progressive_sampler(num_stages: int, **options: Any) -> progressive.ProgressiveSampler:
    return progressive.ProgressiveSampler(ProgressiveOptions.model_validate(options), facts(num_stages))


def trajectory_sampler(facts: TimestepSamplerFacts, **options: Any) -> trajectory.TrajectorySampler:
    return trajectory.TrajectorySampler(TrajectoryOptions.model_validate(options), facts)


def logit_normal_share(at_least: float, location: float, scale: float = 1.0) -> float:
    """P(sigmoid(N(location, scale)) ≥ at_least)."""
    return 0.5 * math.erfc((math.log(at_least / (1 - at_least)) - location) / (scale * math.sqrt(2)))


@pytest.mark.parametrize("batch_size", [1, 5, 64, 257])
def test_one_stage_is_plain_flow_matching_bit_for_bit(batch_size: int) -> None:
    draw = progressive_sampler(1).sample(batch_size, generator(7))
    assert torch.equal(draw.t[:, 0], torch.sigmoid(torch.randn(batch_size, generator=generator(7))))
    assert draw.visible.all()
    assert draw.trained.all()


def test_progressive_draws_in_the_documented_order() -> None:
    draw = progressive_sampler(3, stage_probs=[0.5, 0.3, 0.2]).sample(100, generator(1))
    source = generator(1)
    uniforms = torch.rand(100, generator=source, dtype=torch.float64).numpy()
    normals = torch.randn(100, 3, generator=source).numpy()
    for row, position, normal in zip(draw.t.numpy(), uniforms, normals, strict=True):
        active = 1 + int(position >= 0.5) + int(position >= 0.8)
        logits = [normal[s] + (0 if s == active - 1 else 1.5) for s in range(active)]
        want = [1 / (1 + math.exp(-x)) for x in logits] + [0] * (3 - active)
        np.testing.assert_allclose(row, want, atol=1e-6)


@pytest.mark.parametrize(("tau", "share"), [(0.7, 0.74), (0.9, 0.24), (0.95, 0.07)])
def test_share_of_earlier_timesteps_beyond_the_threshold(tau: float, share: float) -> None:
    """Method §3: how rarely training visits what generation does."""
    draw = progressive_sampler(2, stage_probs=0.0).sample(200_000, generator())
    measured = (draw.t[:, 0] >= tau).double().mean().item()
    assert round(measured, 2) == share
    assert measured == pytest.approx(logit_normal_share(tau, 1.5), abs=0.005)


def test_current_timesteps_are_logit_normal() -> None:
    draw = progressive_sampler(2).sample(100_000, generator())
    current = torch.where(draw.visible[:, 1], draw.t[:, 1], draw.t[:, 0])
    for level in (0.2, 0.5, 0.8):
        assert (current >= level).double().mean().item() == pytest.approx(logit_normal_share(level, 0), abs=0.008)


def test_locations_and_scales_per_stage() -> None:
    options = {"current_location": [0, -2.0], "current_scale": 0, "earlier_location": [3.0, 0], "earlier_scale": [0, 1]}
    draw = progressive_sampler(2, stage_probs=0.5, **options).sample(32, generator())
    both = draw.visible[:, 1]
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0, 3, -2)]
    torch.testing.assert_close(draw.t[~both], torch.tensor([[sigmoid[0], 0.0]]).expand(int((~both).sum()), 2))
    torch.testing.assert_close(draw.t[both], torch.tensor([sigmoid[1:]]).expand(int(both.sum()), 2))


def test_probabilities_are_broadcast_from_the_first() -> None:
    assert progressive_sampler(1).visible_probabilities() == {(True,): 1.0}
    assert progressive_sampler(3).visible_probabilities() == pytest.approx(
        {(True, False, False): 0.9, (True, True, False): 0.05, (True, True, True): 0.05}
    )
    assert progressive_sampler(2, stage_probs=1.0).visible_probabilities() == {(True, False): 1.0}
    assert progressive_sampler(2, stage_probs="0.7,0.3").visible_probabilities()[True, True] == pytest.approx(0.3)


def test_per_batch_draws_one_number_of_stages() -> None:
    sampler = progressive_sampler(3, stage_probs=[0.4, 0.3, 0.3], draw="batch")
    source = generator()
    counts = [sampler.sample(8, source).visible.sum(1) for _ in range(40)]
    assert all((count == count[0]).all() for count in counts)
    assert {int(count[0]) for count in counts} == {1, 2, 3}


def test_tied_has_one_timestep_for_all_stages() -> None:
    draw = tied.TiedSampler(TiedOptions.model_validate({}), facts(3)).sample(50, generator(2))
    want = torch.sigmoid(torch.randn(50, generator=generator(2)))
    assert all(torch.equal(draw.t[:, s], want) for s in range(3))
    assert draw.visible.all()
    assert draw.trained.all()


def test_uniform_is_uniform() -> None:
    draw = uniform.UniformSampler(Options(), facts(3)).sample(30_000, generator())
    for stage, share in enumerate((1, 2 / 3, 1 / 3)):
        seen = draw.visible[:, stage]
        assert seen.double().mean().item() == pytest.approx(share, abs=0.015)
        quantiles = torch.quantile(draw.t[seen, stage], torch.tensor([0.1, 0.5, 0.9]))
        torch.testing.assert_close(quantiles, torch.tensor([0.1, 0.5, 0.9]), atol=0.015, rtol=0)
    assert torch.equal(
        uniform.UniformSampler(Options(), facts(1)).sample(9, generator()).t, torch.rand(9, 1, generator=generator())
    )


def test_trajectory_without_jitter_lies_on_the_grid() -> None:
    grid = schedule_grid(3, steps=[6, 4, 3], thresholds=[0.9, 0.7], shift=[1, 0.4, 0.2])
    draw = trajectory_sampler(facts(3, grid), jitter=0, stage_probs=[0.4, 0.3, 0.3]).sample(500, generator())
    steps = np.arange(grid.num_steps + 1)
    for row, visible in zip(draw.t.double().numpy(), draw.visible, strict=True):
        active = int(visible.sum())
        last = grid.t[:, active - 1].numpy()
        position = np.interp(row[active - 1], last[: (6, 10, 13)[active - 1] + 1], steps[: (6, 10, 13)[active - 1] + 1])
        want = [np.interp(position, steps, grid.t[:, s].numpy()) for s in range(active)] + [0] * (3 - active)
        np.testing.assert_allclose(row, want, atol=2e-4)  # a float32 t near 0 says little about the position
        assert (0, 6, 10)[active - 1] - 0.01 <= position


def test_trajectory_positions_are_uniform_in_the_phase() -> None:
    """With a linear grid the current stage's t is uniform on (0, τ), in the last phase on (0, 1)."""
    grid = schedule_grid(2, thresholds=0.8, shift="linear")
    draw = trajectory_sampler(facts(2, grid), stage_probs=0.5).sample(40_000, generator())
    levels = torch.tensor([0.1, 0.5, 0.9])
    both = draw.visible[:, 1]
    torch.testing.assert_close(torch.quantile(draw.t[~both, 0], levels), 0.8 * levels, atol=0.015, rtol=0)
    torch.testing.assert_close(torch.quantile(draw.t[both, 1], levels), levels, atol=0.015, rtol=0)


def test_trajectory_jitters_the_earlier_stages_in_their_logit() -> None:
    grid = schedule_grid(2, thresholds=0.8, shift="linear")
    draw = trajectory_sampler(facts(2, grid), stage_probs=0.0).sample(40_000, generator())
    on_the_line = 0.8 + 0.2 * draw.t[:, 1].double()
    inner = on_the_line < 0.999
    offset = torch.logit(draw.t[:, 0].double())[inner] - torch.logit(on_the_line)[inner]
    assert offset.mean().item() == pytest.approx(0, abs=0.01)
    assert offset.std().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("num_stages", [1, 2])
def test_trajectory_of_a_simultaneous_schedule_is_one_phase(num_stages: int) -> None:
    schedule = simultaneous_schedule.SimultaneousSchedule(
        schedule_specs.SimultaneousOptions.model_validate({}), StageScheduleFacts(num_stages, (1.0,) * num_stages)
    )
    sampler = trajectory_sampler(facts(num_stages, schedule.grid()), jitter=0)
    assert sampler.visible_probabilities() == {(True,) * num_stages: 1.0}
    draw = sampler.sample(200, generator())
    assert torch.equal(draw.t[:, 0], draw.t[:, -1])
    assert draw.visible.all()


def test_trajectory_of_a_finished_stage_stays_finite() -> None:
    grid = schedule_grid(2, thresholds=1.0)
    draw = trajectory_sampler(facts(2, grid), stage_probs=0.0).sample(1000, generator())
    assert draw.t.isfinite().all()
    assert ((draw.t > 0) & (draw.t < 1)).all()


def test_trajectory_adds_up_phases_with_the_same_stages() -> None:
    visible = torch.tensor([[1, 0], [1, 1], [1, 0]], dtype=torch.bool)
    t = torch.tensor([[0, 0], [0.3, 0], [0.6, 1], [1, 1]], dtype=torch.float64)
    sampler = trajectory_sampler(facts(2, ScheduleGrid(t, visible)), stage_probs=[0.2, 0.5, 0.3])
    assert sampler.visible_probabilities() == pytest.approx({(True, False): 0.5, (True, True): 0.5})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: progressive_sampler(3, stage_probs=[0.9, 0.1]), "expected 3 probabilities .* got 2"),
        (lambda: progressive_sampler(2, stage_probs=[0.9, 0.2]), "add up to 1, .* add up to 1.1"),
        (lambda: progressive_sampler(2, earlier_location=[1.0, 1.0, 1.0]), "earlier_location: expected 2 .* got 3"),
        (
            lambda: trajectory_sampler(facts(3), stage_probs=[0.9, 0.1]),
            "expected 3 probabilities .*phases.* got 2",
        ),
    ],
)
def test_wrong_options_are_explained(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    "options", [{"stage_probs": 1.1}, {"stage_probs": [-0.1, 1.1]}, {"current_scale": -1}, {"draw": "step"}]
)
def test_values_out_of_range_are_refused(options: Any) -> None:
    with pytest.raises(ValidationError):
        ProgressiveOptions.model_validate(options)


def consecutive_sampler(num_stages: int, **options: Any) -> consecutive.ConsecutiveSampler:
    unused = schedule_grid(1)
    return consecutive.ConsecutiveSampler(ConsecutiveOptions.model_validate(options), facts(num_stages, unused))


def test_consecutive_stages_are_alone_and_uniform() -> None:
    draw = consecutive_sampler(3).sample(20_000, generator(3))
    assert torch.equal(draw.visible.sum(1), torch.ones(20_000, dtype=torch.int64))
    assert torch.equal(draw.trained, draw.visible)
    np.testing.assert_allclose(draw.visible.double().mean(0), [0.25, 0.5, 0.25], atol=0.02)
    t = draw.t[draw.visible]
    assert t.mean().item() == pytest.approx(0.5, abs=0.01)
    assert t.var().item() == pytest.approx(1 / 12, abs=0.002)


@pytest.mark.parametrize(
    ("num_stages", "shares"), [(1, [1.0]), (2, [0.5, 0.5]), (3, [0.25, 0.5, 0.25]), (4, [1 / 6, 1 / 3, 1 / 3, 1 / 6])]
)
def test_consecutive_shares(num_stages: int, shares: list[float]) -> None:
    assert list(consecutive_sampler(num_stages).visible_probabilities().values()) == pytest.approx(shares)


def test_given_stages_condition_and_have_no_loss() -> None:
    sampler = progressive_sampler(2, stage_probs=[0, 1], earlier_stages="given")
    draw, plain = (s.sample(64, generator(5)) for s in (sampler, progressive_sampler(2, stage_probs=[0, 1])))
    assert torch.equal(draw.t, plain.t)
    assert draw.visible.all()
    assert draw.trained.tolist() == [[False, True]] * 64
    assert sampler.trained_before() == {(True, False)}
    assert progressive_sampler(2, stage_probs=[0, 1]).trained_before() == frozenset()
    assert progressive_sampler(2, earlier_stages="given").trained_before() == frozenset()


def test_later_stages_are_shown_as_noise_and_not_trained() -> None:
    hidden = progressive_sampler(3, stage_probs=0.4).sample(500, generator(2))
    sampler = progressive_sampler(3, stage_probs=0.4, later_stages="shown")
    shown = sampler.sample(500, generator(2))
    assert shown.visible.all()
    assert torch.equal(shown.trained, hidden.trained)
    assert torch.equal(shown.t, hidden.t)
    assert not shown.t[~shown.trained].any()
    assert sampler.visible_probabilities() == {(True, True, True): 1.0}
    assert unseen_stage_sets(schedule_grid(3), sampler) == [(True, False, False), (True, True, False)]
    assert not unseen_stage_sets(schedule_grid(3, later_stages="shown"), sampler)
