"""Every law over every built-in path, and a broken path for every law."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dfm_core.conformance import LawBroken, check_component, laws_of
from dfm_core.conformance.cases import cases_of
from dfm_core.errors import CompositionError
from dfm_core.flow import StraightPath
from dfm_core.interfaces.path import FreshNoise, Moments, PathFacts, Phase
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.plugins import Options
from dfm_core.stages import Stages
from dfm_plugins.paths import pyramidal
from dfm_plugins.paths.specs import SPECS, PyramidalOptions

LAWS = {law.name: law for law in laws_of("path")}
CASE = next(case for case in cases_of("path") if case.facts.num_stages == 2 and case.facts.whole_stages)
FACTS: PathFacts = CASE.facts
ACCEPTED = {"straight": 10, "cascaded": 6, "pyramidal": 5}
"""Cases: of images all six, four (no residuals before another stage) and four; of clips four, two and one."""


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_paths_hold_the_laws(spec: object) -> None:
    results = check_component(spec)  # type: ignore[arg-type]
    assert {result.law: result.message for result in results if result.state != "held"} == {}
    assert results[0].cases == ACCEPTED[spec.name]  # type: ignore[attr-defined]


class Straight(StraightPath):
    """The broken ones change one thing."""

    def __init__(self) -> None:
        super().__init__(Options(), FACTS)


class InPlace(Straight):
    def at(self, data: Sequence[Tensor], noise: Sequence[Tensor], t: Tensor) -> tuple[Stages, Stages]:
        result = super().at(data, noise, t)
        noise[0].mul_(1.0001)
        return result


class Slower(Straight):
    def at(self, data: Sequence[Tensor], noise: Sequence[Tensor], t: Tensor) -> tuple[Stages, Stages]:
        noisy, velocities = super().at(data, noise, t)
        return noisy, tuple(0.9999 * velocity for velocity in velocities)


class Short(Straight):
    def at(self, data: Sequence[Tensor], noise: Sequence[Tensor], t: Tensor) -> tuple[Stages, Stages]:
        noisy, velocities = super().at(data, noise, 0.999 * t)
        return noisy, tuple(0.999 * velocity for velocity in velocities)


class Centred(Straight):
    def at(self, data: Sequence[Tensor], noise: Sequence[Tensor], t: Tensor) -> tuple[Stages, Stages]:
        noisy, velocities = super().at(data, noise, t)
        return tuple(x + 1e-6 * t[:, :1, None, None] * (1 - t[:, :1, None, None]) * x.mean() for x in noisy), velocities


class Random(Straight):
    def at(self, data: Sequence[Tensor], noise: Sequence[Tensor], t: Tensor) -> tuple[Stages, Stages]:
        torch.rand(1)
        return super().at(data, noise, t)


class Uncorrelated(Straight):
    def moments(self, t: Tensor, stage_sigmas: Tensor) -> Moments:
        right = super().moments(t, stage_sigmas)
        return Moments(right.noisy, 0 * right.cross, right.velocity)


class Stopped(Straight):
    def told_time(self, t: Tensor, visible: Tensor) -> Tensor:
        return t.clamp(max=0.9)


class Unrenoised(pyramidal.Pyramidal):
    """Takes the uncorrected enlargement: the noise is too weak, and alike in each block."""

    def __init__(self) -> None:
        super().__init__(PyramidalOptions(), FACTS)

    def enter_phase(self, stages: Stages, phase: Phase, noise: FreshNoise) -> Stages:
        return (stages[0], pyramidal.enlarge(stages[0]))


class Refusing(Straight):
    def check_grid(self, grid: ScheduleGrid) -> None:
        raise CompositionError("no schedule is to my taste")


BROKEN = {
    "noisy_stages_have_the_form_of_the_data": InPlace,
    "velocity_is_the_derivative": Slower,
    "leads_from_noise_to_data": Short,
    "samples_are_independent": Centred,
    "nothing_else_is_random": Random,
    "moments_are_those_of_the_path": Uncorrelated,
    "told_time_is_a_clock": Stopped,
    "phases_begin_where_training_was": Unrenoised,
}


def test_there_is_a_broken_path_for_every_law() -> None:
    assert set(BROKEN) == set(LAWS)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_path_fails_its_law_only(broken: str) -> None:
    found = set()
    for law in LAWS.values():
        try:
            law.check(BROKEN[broken](), *(tensor.clone() for tensor in CASE.inputs))
        except LawBroken:
            found.add(law.name)
    assert found == {broken}


def test_a_path_that_accepts_no_schedule_fails() -> None:
    with pytest.raises(LawBroken, match="check_grid refuses"):
        LAWS["phases_begin_where_training_was"].check(Refusing(), *CASE.inputs)


def test_the_straight_path_changes_nothing_between_phases() -> None:
    path = Straight()
    stages = (torch.ones(1, 1, 4, 4), torch.ones(1, 1, 8, 8))
    phase = Phase(1, torch.tensor([0.9, 0.0]), torch.tensor([True, True]), torch.tensor([True, False]))
    assert path.enter_phase(stages, phase, lambda _: torch.ones(1)) is stages
