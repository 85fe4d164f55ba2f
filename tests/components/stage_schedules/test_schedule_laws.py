"""Every law over every built-in schedule, and a broken schedule for every law."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dfm_core.conformance import LawBroken, laws_of
from dfm_core.conformance.law import Law
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageSchedule, StageScheduleFacts
from dfm_core.plugins import Options, StageScheduleSpec
from dfm_plugins.stage_schedules.specs import SPECS

LAWS = {law.name: law for law in laws_of("stage_schedule")}
SIGMAS = (0.8, 0.3, 0.11, 0.02)
SETTINGS: dict[str, list[dict[str, object]]] = {
    "progressive": [
        *({}, {"shift": "linear"}, {"shift": 0.2}, {"shift": 3.0}, {"thresholds": 1.0}, {"thresholds": 0.05}),
        *({"later_stages": "shown"}, {"first_stages": 1}),
        *({"first_stages": 2, "thresholds": 0.3}, {"first_stages": 3, "shift": "linear"}),
    ],
    "simultaneous": [{}, {"shift": "auto"}, {"steps": 1}],
    "consecutive": [{}, {"shift": 0.3}],
}


def facts(num_stages: int) -> StageScheduleFacts:
    return StageScheduleFacts(num_stages, SIGMAS[:num_stages])


def build(spec: StageScheduleSpec, options: dict[str, object], num_stages: int) -> StageSchedule:
    module, name = spec.factory.split(":")
    factory: Callable[..., StageSchedule] = getattr(importlib.import_module(module), name)
    return factory(spec.options.model_validate(options), facts(num_stages))


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_schedule_holds_law(law: Law, spec: Any, num_stages: int) -> None:
    if law.requires and not getattr(spec, law.requires):
        pytest.skip(f"{spec.name} does not declare {law.requires}")
    for options in SETTINGS[spec.name]:
        if options.get("first_stages", 0) > num_stages:  # type: ignore[operator]
            continue
        if law.requires is None or spec.holds(law.requires, spec.options.model_validate(options)):
            law.check(build(spec, options, num_stages))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_progressive_with_one_step_a_stage_holds_law(law: Law) -> None:
    law.check(build(SPECS[0], {"steps": [1, 1, 1], "thresholds": [0.5, 1.0]}, 3))


class Given(StageSchedule):
    """A schedule with the grid that it is given."""

    def __init__(
        self,
        t: list[list[float]],
        visible: list[list[int]],
        dtype: torch.dtype = torch.float64,
        thresholds: tuple[float, ...] | None = None,
        options: Options | None = None,
    ) -> None:
        super().__init__(options or Options(), facts(len(t[0])))
        self._thresholds = (0.5,) * (len(t[0]) - 1) if thresholds is None else thresholds
        self._grid = ScheduleGrid(torch.tensor(t, dtype=dtype), torch.tensor(visible, dtype=torch.bool))

    def grid(self) -> ScheduleGrid:
        return self._grid

    def thresholds(self) -> tuple[float, ...] | None:
        return self._thresholds


class Promiseless(Given):
    """Has no thresholds."""

    def thresholds(self) -> None:
        return None


class Some(Options):
    first: int = 3


class Restless(Given):
    """Another grid at every call."""

    def grid(self) -> ScheduleGrid:
        self._grid = ScheduleGrid(self._grid.t**0.5, self._grid.visible)
        return self._grid


GOOD: list[list[float]] = [[0, 0], [0.5, 0], [1, 1]]
PREFIXES = [[1, 0], [1, 1]]
BROKEN: dict[str, StageSchedule] = {
    "grid_has_its_declared_form": Given(GOOD, PREFIXES, torch.float32),
    "starts_at_noise": Given([[0.1, 0], [0.5, 0], [1, 1]], PREFIXES),
    "ends_at_data": Given([[0, 0], [0.5, 0], [1, 1 - 1e-9]], PREFIXES),
    "never_goes_back": Given([[0, 0], [0.9, 0], [0.8, 0.5], [1, 1]], [[1, 0], [1, 1], [1, 1]]),
    "something_moves_in_every_step": Given([[0, 0], [0.5, 0], [1, 0.5], [1, 0.5], [1, 1]], [[1, 0]] + [[1, 1]] * 3),
    "invisible_stages_rest": Given([[0, 0], [0.5, 0.1], [1, 1]], PREFIXES),
    "grid_is_reproducible": Restless(GOOD, PREFIXES),
    "visible_stages_are_a_prefix": Given(
        [[0, 0, 0], [0.5, 0, 0], [0.6, 0.5, 0], [0.7, 0.5, 0.1], [1, 1, 1]],
        [[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]],
    ),
    "stages_start_one_after_the_other": Given(GOOD, [[1, 1], [1, 1]]),
    "stages_wait_for_the_one_before": Given([[0, 0], [0.5 - 1e-8, 0], [1, 1]], PREFIXES),
}


def test_every_law_has_a_broken_schedule() -> None:
    assert set(BROKEN) == set(LAWS)


def test_the_broken_schedules_differ_from_a_good_one() -> None:
    for law in LAWS.values():
        law.check(Given(GOOD, PREFIXES))


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_schedule_fails_its_law_only(broken: str) -> None:
    with pytest.raises(LawBroken, match=r"."):
        LAWS[broken].check(BROKEN[broken])
    for name in set(LAWS) - {broken}:
        LAWS[name].check(BROKEN[broken])


@pytest.mark.parametrize(
    ("t", "visible", "message"),
    [
        ([[0, 0], [0.5, 0.0], [1, 0.0], [1, 1]], [[1, 0], [1, 1], [1, 1]], "stage 2 is visible from step 2"),
        ([[0, 0, 0], [1, 0, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 1]], r"expected \[1, 2, 3\], got \[1, 3\]"),
    ],
)
def test_order_of_the_stages_is_explained(t: Any, visible: Any, message: str) -> None:
    with pytest.raises(LawBroken, match=message):
        LAWS["stages_start_one_after_the_other"].check(Given(t, visible))


@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_values_outside_the_range_are_refused(value: float) -> None:
    with pytest.raises(LawBroken, match="leaves"):
        LAWS["grid_has_its_declared_form"].check(Given([[0], [value], [1]], [[1], [1]]))


def no_wait(num_stages: int) -> Given:
    """Each stage starts one step after the one before, which has left noise by a millionth."""
    steps = num_stages + 10
    t = torch.zeros(steps + 1, num_stages, dtype=torch.float64)
    for stage in range(num_stages):
        t[stage + 1 :, stage] = torch.linspace(1e-6, 1, steps - stage, dtype=torch.float64)
    visible = torch.arange(steps)[:, None] >= torch.arange(num_stages)
    return Given(t.tolist(), visible.int().tolist(), thresholds=(0.9,) * (num_stages - 1))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (no_wait(2), r"stage 2 starts when stage 1 is at t = 1e-06, expected its threshold 0\.9"),
        (Promiseless(GOOD, PREFIXES), r"expected 1 in \(0, 1\], one for each stage .* got None; return them"),
        (Given(GOOD, PREFIXES, thresholds=(0.0,)), r"got \(0\.0,\)"),
        (Given(GOOD, PREFIXES, thresholds=(0.5, 0.5)), r"got \(0\.5, 0\.5\)"),
    ],
)
def test_only_a_schedule_that_waits_for_its_thresholds_is_progressive(schedule: Given, message: str) -> None:
    for name in set(LAWS) - {"stages_wait_for_the_one_before"}:
        LAWS[name].check(schedule)
    with pytest.raises(LawBroken, match=message):
        LAWS["stages_wait_for_the_one_before"].check(schedule)


LEFT_OUT: tuple[list[list[float]], list[list[int]]] = ([[0, 0, 0], [0.5, 0, 0], [1, 1, 0]], [[1, 0, 0], [1, 1, 0]])


def test_an_option_may_leave_out_the_last_stages() -> None:
    schedule = Given(*LEFT_OUT, thresholds=(0.5,), options=Some(first=2))
    for law in LAWS.values():
        law.check(schedule)


@pytest.mark.parametrize(
    ("t", "visible", "options"),
    [
        (*LEFT_OUT, Some()),  # no option asks for it
        ([[0, 0, 0], [1, 0, 1]], [[1, 0, 1]], Some(first=2)),  # in the middle
        ([[0, 0], [0.5, 0], [1, 0]], [[1, 0], [1, 1]], Some(first=1)),  # visible, and never generated
    ],
)
def test_no_other_stage_may_be_left_out(t: Any, visible: Any, options: Options) -> None:
    with pytest.raises(LawBroken, match="ends 1 off t = 1"):
        LAWS["ends_at_data"].check(Given(t, visible, options=options))


def test_with_one_stage_the_other_laws_make_it_a_plain_grid() -> None:
    with pytest.raises(LawBroken, match="stage 1 moves by 1 in a step in which it is invisible"):
        LAWS["invisible_stages_rest"].check(Given([[0], [1]], [[0]]))
    with pytest.raises(LawBroken, match="nothing moves in 1 of 3 steps"):
        LAWS["something_moves_in_every_step"].check(Given([[0], [0.5], [0.5], [1]], [[1], [0], [1]]))
