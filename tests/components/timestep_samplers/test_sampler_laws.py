"""Every law over every built-in sampler, and a broken sampler for every law."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dfm_core.conformance import LawBroken, laws_of
from dfm_core.conformance.law import Law
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageScheduleFacts
from dfm_core.interfaces.timestep_sampler import TimestepDraw, TimestepSampler, TimestepSamplerFacts
from dfm_core.plugins import Options, TimestepSamplerSpec
from dfm_plugins.stage_schedules import progressive, simultaneous
from dfm_plugins.stage_schedules.specs import ProgressiveOptions, SimultaneousOptions
from dfm_plugins.timestep_samplers.specs import SPECS

LAWS = {law.name: law for law in laws_of("timestep_sampler")}
SETTINGS: dict[str, list[dict[str, object]]] = {
    "progressive": [{}, {"stage_probs": 0.5, "draw": "batch"}, {"earlier_stages": "given"}, {"later_stages": "shown"}],
    "tied": [{}],
    "uniform": [{}],
    "consecutive": [{}],
    "trajectory": [{}, {"stage_probs": 0.3, "jitter": 0}],
}


def grid_of(num_stages: int, together: bool = False) -> ScheduleGrid:
    facts = StageScheduleFacts(num_stages, (1.0, 0.3, 0.1, 0.02)[:num_stages])
    if together:
        return simultaneous.SimultaneousSchedule(SimultaneousOptions.model_validate({}), facts).grid()
    return progressive.ProgressiveSchedule(ProgressiveOptions.model_validate({}), facts).grid()


def build(spec: TimestepSamplerSpec, options: dict[str, object], facts: TimestepSamplerFacts) -> TimestepSampler:
    module, name = spec.factory.split(":")
    factory: Callable[..., TimestepSampler] = getattr(importlib.import_module(module), name)
    return factory(spec.options.model_validate(options), facts)


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_sampler_holds_law(law: Law, spec: Any, num_stages: int) -> None:
    if law.requires and not getattr(spec, law.requires):
        pytest.skip(f"{spec.name} does not declare {law.requires}")
    for together in (False, True) if spec.name == "trajectory" else (False,):
        for options in SETTINGS[spec.name]:
            law.check(build(spec, options, TimestepSamplerFacts(num_stages, grid_of(num_stages, together))))


class Good(TimestepSampler):
    """Both stages or the first one alone, evenly; the earlier one cleaner. The broken ones change one thing."""

    def __init__(self) -> None:
        super().__init__(Options(), TimestepSamplerFacts(2, grid_of(2)))

    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        second = torch.rand(batch_size, generator=generator) < 0.5
        visible = torch.stack([torch.ones_like(second), second], dim=1)
        t = torch.rand(batch_size, 2, generator=generator).sort(descending=True).values
        return TimestepDraw(t * visible, visible, visible.clone())

    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        return {(True, False): 0.5, (True, True): 0.5}


class DoublePrecision(Good):
    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        draw = super().sample(batch_size, generator)
        return TimestepDraw(draw.t.double(), draw.visible, draw.trained)


class OutOfRange(Good):
    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        draw = super().sample(batch_size, generator)
        return TimestepDraw(draw.t * 1.01, draw.visible, draw.trained)


class TrainsTheInvisible(Good):
    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        draw = super().sample(batch_size, generator)
        return TimestepDraw(draw.t, draw.visible, torch.ones_like(draw.trained))


class LeavesTimesteps(Good):
    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        draw = super().sample(batch_size, generator)
        return TimestepDraw(draw.t.clamp_min(1e-3), draw.visible, draw.trained)


class UsesGlobalState(Good):
    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        draw = super().sample(batch_size, generator)
        return TimestepDraw(torch.where(draw.visible, torch.rand(1) * draw.t, 0), draw.visible, draw.trained)


class DoesNotAddUp(Good):
    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        return {(True, False): 0.5, (True, True): 0.499}


class PromisesOtherwise(Good):
    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        return {(True, False): 0.6, (True, True): 0.4}


class EarlierNoisier(Good):
    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        draw = super().sample(batch_size, generator)
        return TimestepDraw(torch.where(draw.visible, draw.t.flip(1), 0), draw.visible, draw.trained)


class DrawsForEachSample(Good):
    one_set_a_batch = True


BROKEN: dict[str, type[Good]] = {
    "draw_has_its_declared_form": DoublePrecision,
    "timesteps_are_in_range": OutOfRange,
    "trained_stages_are_visible": TrainsTheInvisible,
    "invisible_stages_are_at_zero": LeavesTimesteps,
    "the_generator_decides": UsesGlobalState,
    "probabilities_add_up_to_one": DoesNotAddUp,
    "visible_sets_are_as_frequent_as_promised": PromisesOtherwise,
    "one_set_a_batch_is_one": DrawsForEachSample,
    "earlier_stages_are_cleaner": EarlierNoisier,
}


def test_every_law_has_a_broken_sampler() -> None:
    assert set(BROKEN) == set(LAWS)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_sampler_that_is_not_broken_holds_law(law: Law) -> None:
    law.check(Good())


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_sampler_fails_its_law_only(broken: str) -> None:
    sampler = BROKEN[broken]()
    with pytest.raises(LawBroken, match=r"."):
        LAWS[broken].check(sampler)
    for name in set(LAWS) - {broken}:
        LAWS[name].check(sampler)


class Stateful(Good):
    """Draws from a generator of its own, which moves on."""

    def __init__(self) -> None:
        super().__init__()
        self._own = torch.Generator().manual_seed(3)

    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        return super().sample(batch_size, self._own)


class Constant(Good):
    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        return super().sample(batch_size, torch.Generator().manual_seed(3))


class TrainsNothing(Good):
    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        draw = super().sample(batch_size, generator)
        return TimestepDraw(draw.t, draw.visible, torch.zeros_like(draw.trained))


class PromisesLess(Good):
    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        return {(True, False): 1.0}


class NotANumber(Good):
    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        draw = super().sample(batch_size, generator)
        return TimestepDraw(draw.t.log() + float("nan"), draw.visible, draw.trained)


@pytest.mark.parametrize(
    ("law", "sampler", "message"),
    [
        ("the_generator_decides", Stateful, "same generator state differ"),
        ("the_generator_decides", Constant, "two seeds are the same"),
        ("trained_stages_are_visible", TrainsNothing, "4096 of 4096 samples train no stage"),
        ("visible_sets_are_as_frequent_as_promised", PromisesLess, r"promised (1|0)\.0000"),
        ("timesteps_are_in_range", NotANumber, "inf"),
    ],
)
def test_other_ways_to_break_a_law(law: str, sampler: type[Good], message: str) -> None:
    with pytest.raises(LawBroken, match=message):
        LAWS[law].check(sampler())
