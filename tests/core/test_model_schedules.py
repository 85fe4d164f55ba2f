"""`Model.with_schedule`: another schedule for a trained model, by name or by options, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_plugins import FakeSite

from dfm_core.api import build
from dfm_core.errors import CompositionError, ConfigError, UnknownComponentError, UsageError
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageSchedule, StageScheduleFacts
from dfm_core.model import DESCRIPTION_FILE, Model, load
from dfm_core.plugins import Options
from dfm_core.plugins.discovery import PluginState
from dfm_core.plugins.registry import Registry

TINY: dict[str, Any] = {
    "stages": [8, 16],
    "backbone": {"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2}},
    "flow": {"statistics_images": 2},
    "device": "cpu",
}


def tiny(**settings: Any) -> Model:
    """A model with random weights."""
    return build(**{**TINY, **settings})


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny(stage_schedule={"name": "progressive", "options": {"thresholds": [0.5], "steps": [2, 1]}})


def test_another_schedule_by_name_has_its_default_options(model: Model) -> None:
    together = model.with_schedule("simultaneous")
    assert (together.schedule.name, together.composition.grid.num_steps) == ("simultaneous", 40)
    assert together.composition.grid.visible.all()
    assert model.with_schedule("progressive").composition.grid.num_steps == 40
    assert (model.schedule.name, model.composition.grid.num_steps) == ("progressive", 3)


def test_options_change_the_present_schedule(model: Model) -> None:
    longer = model.with_schedule(steps=(3, 2))
    assert longer.composition.grid.t[3, 0] == 0.5  # the threshold is still the model's own
    again = longer.with_schedule(thresholds=(0.7,), shift=None)
    assert again.composition.grid.t[3, 0] == 0.7
    assert again.composition.grid.num_steps == 5
    assert model.with_schedule("simultaneous", steps=6).with_schedule(shift=0.5).composition.grid.num_steps == 6


def test_nothing_asked_for_is_the_same_model(model: Model) -> None:
    assert model.with_schedule() is model
    assert model.with_schedule(steps=None) is model


def test_the_weights_are_shared_and_the_images_differ(model: Model) -> None:
    together = model.with_schedule("simultaneous", steps=3)
    assert together.composition.model is model.composition.model
    images = together.generate(2, seed=1)
    assert images.shape == (2, 3, 16, 16)
    assert torch.isfinite(images).all()
    assert not torch.equal(images, model.generate(2, seed=1))


def test_what_training_never_saw_is_refused_by_name() -> None:
    trained = tiny(stage_schedule="simultaneous", timestep_sampler="tied")
    with pytest.raises(CompositionError) as caught:
        trained.with_schedule("progressive")
    message = str(caught.value)
    assert "schedule 'progressive' shows the network stages 1 together" in message
    assert "'tied' never draws" in message
    assert "schedules that fit: simultaneous" in message


def test_wrong_names_and_options_are_usage_errors(model: Model) -> None:
    with pytest.raises(UnknownComponentError, match="Did you mean 'simultaneous'"):
        model.with_schedule("simultanous")
    with pytest.raises(ConfigError, match=r"stage_schedule.options.step: unknown key. Did you mean 'steps'"):
        model.with_schedule(step=3)
    with pytest.raises(ConfigError, match="unknown key"):
        model.with_schedule("simultaneous", thresholds=(0.5,))  # an option of the schedule before
    with pytest.raises(ConfigError, match="expected 2 for 2 stages"):
        model.with_schedule(steps=(1, 2, 3))


def test_an_export_keeps_the_schedule_of_the_training(model: Model, tmp_path: Path) -> None:
    exported = model.with_schedule("simultaneous").export(tmp_path / "model")
    saved = json.loads((exported / DESCRIPTION_FILE).read_text())
    assert saved["config"]["stage_schedule"]["name"] == "progressive"
    assert load(exported, device="cpu").composition.grid.num_steps == 3


class Halves(StageSchedule):
    """Two steps for everything."""

    def grid(self) -> ScheduleGrid:
        t = torch.tensor([0, 0.5, 1], dtype=torch.float64)[:, None].repeat(1, self.facts.num_stages)
        return ScheduleGrid(t, torch.ones(2, self.facts.num_stages, dtype=torch.bool))


def test_a_schedule_given_as_an_object_can_be_replaced() -> None:
    own = tiny(stage_schedule=lambda options, facts: Halves(Options(), facts))
    assert own.composition.grid.num_steps == 2
    with pytest.raises(UsageError, match=r"is an object \(.*<lambda>\): name the one to use instead"):
        own.with_schedule(steps=3)
    assert own.with_schedule("simultaneous", steps=3).composition.grid.num_steps == 3


FRAIL = """
from pydantic import Field
from dfm_core.plugins import StageScheduleSpec

class NeedyOptions(Options):
    steps: int = Field(description="Steps.")

@hookimpl
def dfm_stage_schedules():
    return [
        StageScheduleSpec("needy", "Has an option without a default.", "nowhere:Needy", NeedyOptions),
        StageScheduleSpec("broken", "Cannot be imported.", "nowhere:Broken"),
        StageScheduleSpec("empty", "Has no grid.", "frail_schedules:Empty"),
    ]
"""


EMPTY = """
from dfm_core.interfaces.stage_schedule import StageSchedule

class Empty(StageSchedule):
    def grid(self): ...
"""


def test_a_schedule_that_does_not_work_is_no_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = FakeSite(tmp_path, monkeypatch)
    site.plugin("frail", FRAIL)
    site.module("frail_schedules", EMPTY, preamble="")
    registry = Registry.discover({})
    assert registry.load("frail").state is PluginState.LOADED
    with pytest.raises(CompositionError, match=r"schedules that fit: simultaneous \("):
        tiny(timestep_sampler="tied", registry=registry)


def test_facts_of_the_new_schedule_are_the_model_s(model: Model) -> None:
    composition = model.composition
    facts = model.with_schedule("simultaneous").composition.schedule.facts
    assert facts == StageScheduleFacts(2, composition.statistics.sigmas(composition.space.scales))
