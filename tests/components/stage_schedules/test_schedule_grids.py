"""The grids of the built-in schedules against independent lines, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dfm_core.errors import ConfigError
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageScheduleFacts
from dfm_plugins.stage_schedules import consecutive, progressive, simultaneous
from dfm_plugins.stage_schedules.specs import ConsecutiveOptions, ProgressiveOptions, SimultaneousOptions


def progressive_grid(num_stages: int, sigmas: Any = None, **options: Any) -> ScheduleGrid:
    facts = StageScheduleFacts(num_stages, sigmas or (1.0,) * num_stages)
    return progressive.ProgressiveSchedule(ProgressiveOptions.model_validate(options), facts).grid()


def simultaneous_grid(num_stages: int, sigmas: Any = None, **options: Any) -> ScheduleGrid:
    facts = StageScheduleFacts(num_stages, sigmas or (1.0,) * num_stages)
    return simultaneous.SimultaneousSchedule(SimultaneousOptions.model_validate(options), facts).grid()


@pytest.mark.parametrize(("steps", "tau"), [((30, 10), 0.7), ((30, 10), 0.95), ((3, 5), 0.2)])
def test_two_stages_are_threshold_then_linear(steps: Any, tau: float) -> None:
    grid = progressive_grid(2, steps=steps, thresholds=tau, shift="linear")
    first = np.concatenate([np.linspace(0, tau, steps[0] + 1), np.linspace(tau, 1, steps[1] + 1)[1:]])
    second = np.concatenate([np.zeros(steps[0]), np.linspace(0, 1, steps[1] + 1)])
    np.testing.assert_allclose(grid.t.numpy(), np.stack([first, second], 1), rtol=0, atol=1e-15)
    assert grid.visible.tolist() == [[True, False]] * steps[0] + [[True, True]] * steps[1]


def test_one_stage_is_a_plain_linear_grid() -> None:
    grid = progressive_grid(1)
    np.testing.assert_allclose(grid.t[:, 0].numpy(), np.linspace(0, 1, 41), atol=1e-15)
    assert grid.visible.all()


@pytest.mark.parametrize("num_stages", [3, 4])
@pytest.mark.parametrize("shift", ["auto", "linear", 0.3, 2.5])
def test_more_stages_follow_one_another(num_stages: int, shift: Any) -> None:
    sigmas = (1.0, 0.3, 0.1, 0.01)[:num_stages]
    thresholds = (0.9, 0.6, 0.8)[: num_stages - 1]
    steps = (7, 4, 5, 3)[:num_stages]
    grid = progressive_grid(num_stages, sigmas, steps=steps, thresholds=thresholds, shift=shift)
    t = grid.t.numpy()
    stops = np.cumsum(steps)
    assert grid.num_steps == stops[-1]
    assert (t[0] == 0).all()
    assert (t[-1] == 1).all()
    assert (np.diff(t, axis=0) >= 0).all()
    for stage, (start, stop) in enumerate(zip([0, *stops[:-1]], stops, strict=True)):
        assert (t[: start + 1, stage] == 0).all(), "waits at noise"
        assert (np.diff(t[start:, stage]) > 0).all(), "then never rests"
        assert t[stop, stage] == (*thresholds, 1.0)[stage], "hits its threshold exactly"
    first_moves = [int(np.flatnonzero(np.diff(t[:, stage]))[0]) for stage in range(num_stages)]
    assert first_moves == [0, *stops[:-1]]


def test_shifted_column_is_the_formula_of_the_method() -> None:
    """t = 1 − ku / (1 + (k−1)u), u = 1 − i/n, for the last stage."""
    steps, shift = (4, 10), 0.3
    u = 1 - np.arange(11) / 10
    want = 1 - shift * u / (1 + (shift - 1) * u)
    grid = progressive_grid(2, steps=steps, shift=shift)
    np.testing.assert_allclose(grid.t[4:, 1].numpy(), want, atol=1e-15)
    np.testing.assert_allclose(simultaneous_grid(2, steps=10, shift=[1, shift]).t[:, 1].numpy(), want, atol=1e-15)


def test_shift_goes_on_after_the_threshold() -> None:
    """The own progress p is linear in the step index on both sides of the threshold."""
    shift, tau = 0.2, 0.7
    t = progressive_grid(2, steps=(6, 4), thresholds=tau, shift=[shift, 1.0]).t[:, 0].numpy()
    progress = shift * t / (1 - t + shift * t)
    corner = shift * tau / (1 - tau + shift * tau)
    np.testing.assert_allclose(progress[:7], np.linspace(0, corner, 7), atol=1e-14)
    np.testing.assert_allclose(progress[6:], np.linspace(corner, 1, 5), atol=1e-14)


def test_auto_shift_is_the_clipped_deviation() -> None:
    auto = progressive_grid(4, (2.0, 0.5, 0.11, 0.01), shift="auto")
    given = progressive_grid(4, shift=[1.0, 0.5, 0.11, 0.05])
    assert torch.equal(auto.t, given.t)
    assert torch.equal(progressive_grid(2, (1.0, 1.0)).t, progressive_grid(2, shift="linear").t)


def test_threshold_one_finishes_in_its_phase_and_stays_visible() -> None:
    grid = progressive_grid(2, steps=(3, 2), thresholds=1.0)
    assert grid.t[:, 0].tolist()[3:] == [1.0, 1.0, 1.0]
    assert grid.visible[:, 0].all()


def test_defaults() -> None:
    assert progressive_grid(1).num_steps == 40
    assert progressive_grid(4).visible.sum(0).tolist() == [60, 30, 20, 10]
    grid = progressive_grid(3)
    assert (grid.t[30, 0].item(), grid.t[40, 1].item()) == (0.9, 0.9)
    assert simultaneous_grid(3).num_steps == 40


def test_simultaneous_moves_all_stages_together() -> None:
    grid = simultaneous_grid(3, (1.0, 0.3, 0.1), steps=8)
    for stage in range(3):
        np.testing.assert_allclose(grid.t[:, stage].numpy(), np.linspace(0, 1, 9), atol=1e-15)
    assert grid.visible.all()
    auto = simultaneous_grid(2, (1.0, 0.1), shift="auto")
    assert (auto.t[1:-1, 1] > auto.t[1:-1, 0]).all()


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"steps": "30,10"}, {"steps": [30, 10]}),
        ({"thresholds": "0.7"}, {"thresholds": 0.7}),
        ({"thresholds": [0.7]}, {"thresholds": 0.7}),
        ({"shift": "0.5,0.2"}, {"shift": [0.5, 0.2]}),
        ({"shift": "0.5"}, {"shift": 0.5}),
        ({"shift": 1}, {"shift": "linear"}),
    ],
)
def test_options_as_they_come_from_a_command_line(given: dict[str, Any], same: dict[str, Any]) -> None:
    assert torch.equal(progressive_grid(2, **given).t, progressive_grid(2, **same).t)


def test_a_single_number_of_steps() -> None:
    assert progressive_grid(1, steps=7).num_steps == 7
    assert simultaneous_grid(2, steps=[7]).num_steps == 7


def test_one_threshold_serves_all_stages() -> None:
    assert torch.equal(progressive_grid(3, thresholds=0.6).t, progressive_grid(3, thresholds=[0.6, 0.6]).t)


@pytest.mark.parametrize(
    ("num_stages", "options", "message"),
    [
        (2, {"steps": 40}, r"steps: expected 2 for 2 stages .* got 1: \[40\].*30,10"),
        (1, {"steps": [30, 10]}, r"steps: expected 1 for 1 stage .* got 2"),
        (3, {"thresholds": [0.9, 0.9, 0.9]}, r"thresholds: expected 2 for 3 stages .* got 3"),
        (1, {"thresholds": [0.9, 0.8]}, r"thresholds: expected 0 for 1 stage .* got 2"),
        (3, {"shift": [0.5, 0.5]}, r"shift: expected 3 for 3 stages .* got 2"),
    ],
)
def test_wrong_numbers_are_explained(num_stages: int, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        progressive_grid(num_stages, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"thresholds": 0.0},
        {"thresholds": [0.9, 1.01]},
        {"thresholds": float("nan")},
        {"steps": [30, 0]},
        {"steps": [2.5]},
        {"shift": 0},
        {"shift": -1.0},
        {"shift": "fast"},
        {"shift": float("inf")},
        {"step": 3},
    ],
)
def test_values_out_of_range_are_refused(options: Any) -> None:
    with pytest.raises(ValidationError):
        ProgressiveOptions.model_validate(options)


def test_simultaneous_refuses_a_number_a_stage() -> None:
    with pytest.raises(ValidationError):
        SimultaneousOptions.model_validate({"steps": [30, 10]})


def consecutive_grid(num_stages: int, **options: Any) -> ScheduleGrid:
    facts = StageScheduleFacts(num_stages, (1.0,) * num_stages)
    return consecutive.ConsecutiveSchedule(ConsecutiveOptions.model_validate(options), facts).grid()


def test_consecutive_stages_run_alone_from_noise_to_data() -> None:
    grid = consecutive_grid(2, steps=(2, 4))
    first, second = [0, 0.5, 1, 1, 1, 1, 1], [0, 0, 0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_array_equal(grid.t, np.stack([first, second], 1))
    assert grid.visible.tolist() == [[True, False]] * 2 + [[False, True]] * 4


def test_consecutive_stages_are_spaced_as_plain_ones() -> None:
    grid = consecutive_grid(2, steps=(4, 10), shift=[1, 0.3])
    plain = progressive_grid(2, steps=(4, 10), shift=[1, 0.3], thresholds=1.0)
    np.testing.assert_array_equal(grid.t[:5, 0], plain.t[:5, 0])
    np.testing.assert_allclose(grid.t[:, 1], plain.t[:, 1], rtol=1e-15)
    assert torch.equal(consecutive_grid(2, shift=1.0).t, consecutive_grid(2).t)
    with pytest.raises(ConfigError, match="shift: expected 3 for 3 stages"):
        consecutive_grid(3, shift=(0.5, 0.5))


def test_consecutive_has_no_shift_of_its_own_accord() -> None:
    """What a stage's root mean square says of its steps is not so on Pyramidal Flow's path."""
    with pytest.raises(ValidationError):
        ConsecutiveOptions.model_validate({"shift": "auto"})


@pytest.mark.parametrize(("num_stages", "steps"), [(1, [40]), (2, [20, 20]), (3, [14, 13, 13])])
def test_consecutive_stages_share_forty_steps(num_stages: int, steps: list[int]) -> None:
    assert consecutive_grid(num_stages).visible.sum(0).tolist() == steps


def test_consecutive_wants_a_number_of_steps_for_each_stage() -> None:
    with pytest.raises(ConfigError, match="steps: expected 3 for 3 stages"):
        consecutive_grid(3, steps=(20, 20))


def test_first_stages_leave_the_others_at_noise() -> None:
    grid = progressive_grid(3, first_stages=2, steps=(3, 2), thresholds=0.9, shift="linear")
    whole = progressive_grid(2, steps=(3, 2), thresholds=0.9, shift="linear")
    assert torch.equal(grid.t[:, :2], whole.t)
    assert torch.equal(grid.visible[:, :2], whole.visible)
    assert not grid.t[:, 2].any()
    assert not grid.visible[:, 2].any()
    with pytest.raises(ConfigError, match="first_stages: expected at most 3, got 4"):
        progressive_grid(3, first_stages=4)
    with pytest.raises(ConfigError, match="expected 3 with later_stages=shown, got 2: a stage that is shown is part"):
        progressive_grid(3, first_stages=2, later_stages="shown")
