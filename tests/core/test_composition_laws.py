"""The laws of a model made with a component: held by what ships, each broken by a component that breaks it alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from built_in_components import built_in, needs_files
from fake_plugins import FakeSite

from dfm_core.conformance import LawResult, LawSkipped, check_composition, composition, laws_of
from dfm_core.conformance.composition.small_config import CLIP_SIZES, SIZES, SmallConfig
from dfm_core.conformance.composition.small_model import Once
from dfm_core.conformance.subject import subject_of
from dfm_core.plugins.kinds import KINDS
from dfm_core.plugins.registry import Registry

QUICK = {"depth": 1, "width": 16, "heads": 1}
LAWS = [law.name for law in laws_of("composition")]

PLUGIN = """
from dfm_core.plugins import AutoencoderSpec, BackboneSpec, StageScheduleSpec, TimestepSamplerSpec

@hookimpl
def dfm_decompositions():
    return [DecompositionSpec("refusing", "Refuses every size.", "acme_parts:Refusing")]

@hookimpl
def dfm_timestep_samplers():
    return [
        TimestepSamplerSpec("together", "All stages, always.", "acme_parts:Together"),
        TimestepSamplerSpec("last", "The last stage alone.", "acme_parts:Last"),
    ]

@hookimpl
def dfm_stage_schedules():
    return [StageScheduleSpec("backwards", "The finest stage first.", "acme_parts:Backwards")]

@hookimpl
def dfm_backbones():
    return [BackboneSpec("idle", "Learns nothing.", "acme_parts:Idle")]

@hookimpl
def dfm_autoencoders():
    return [
        AutoencoderSpec("halves", "Halves the size.", "acme_parts:Halves"),
        AutoencoderSpec("cropping", "Crops.", "acme_parts:Cropping"),
        AutoencoderSpec("process", "Depends on the process.", "acme_parts:OfItsProcess"),
        AutoencoderSpec("infinite", "Divides by zero.", "acme_parts:Infinite"),
    ]
"""

PARTS = """
import os
import re
import torch
from dfm_core.errors import StageSizeError
from dfm_core.interfaces.autoencoder import Autoencoder
from dfm_core.interfaces.backbone import Backbone
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_plugins.autoencoders.pixels import Pixels
from dfm_plugins.decompositions.identity import Identity
from dfm_plugins.stage_schedules.specs import SimultaneousOptions
from dfm_plugins.stage_schedules.simultaneous import SimultaneousSchedule
from dfm_plugins.timestep_samplers.specs import TiedOptions
from dfm_plugins.timestep_samplers.tied import TiedSampler

class Refusing(Identity):
    def __init__(self, options, facts):
        raise StageSizeError("no size is good enough")

class Together(TiedSampler):
    def __init__(self, options, facts):
        super().__init__(TiedOptions.model_validate({}), facts)

class Last(Together):
    def visible_probabilities(self):
        return {tuple(index == self.facts.num_stages - 1 for index in range(self.facts.num_stages)): 1.0}

class Backwards(SimultaneousSchedule):
    def __init__(self, options, facts):
        super().__init__(SimultaneousOptions.model_validate({}), facts)

    def grid(self):
        whole = super().grid()
        first = torch.cat([torch.zeros(3, self.facts.num_stages - 1), torch.tensor([[0.0], [0.1], [0.2]])], dim=1)
        rest = whole.t * (1 - first[-1]) + first[-1]
        visible = torch.tensor([[stage == self.facts.num_stages - 1 for stage in range(self.facts.num_stages)]] * 2)
        return ScheduleGrid(torch.cat([first[:2], rest]).double(), torch.cat([visible, whole.visible]))

class Idle(Backbone):
    def __init__(self, options, facts):
        super().__init__(options, facts)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, noisy_stages, t, visible, conditioning):
        return tuple(torch.zeros_like(stage) + 0 * self.weight for stage in noisy_stages)

class Halves(Pixels):
    downsample_factor = 2

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 2)

    def decode(self, latents):
        return latents.repeat_interleave(2, -1).repeat_interleave(2, -2)

class Cropping(Pixels):
    def decode(self, latents):
        return latents[..., 1:]

class Infinite(Pixels):
    def decode(self, latents):
        return latents / 0

class OfItsProcess(Pixels):
    def decode(self, latents):
        return latents + os.getpid() * 1e-6
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The built-in plugin, and one with broken components."""
    site = FakeSite(tmp_path, monkeypatch)
    site.module("acme_parts", PARTS, preamble="")
    site.plugin("acme", PLUGIN)
    return Registry.discover({})


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> None:
    """This process stands for a new one, which takes seconds."""

    def call(function: object, *given: object) -> str:
        return composition.digest(composition.load(*given, registry=registry).generate(4))  # type: ignore[arg-type]

    monkeypatch.setattr(composition, "call_fresh", call)


def by_law(results: tuple[LawResult, ...]) -> dict[str, LawResult]:
    assert [result.law for result in results] == LAWS
    return {result.law: result for result in results}


def judged(name: str, registry: Registry) -> dict[str, LawResult]:
    """A model with a component and a network that is smaller than the default one."""
    partners = {"backbone": {"name": "dit", "options": QUICK}}
    return by_law(composition.judge_model(subject_of(name, registry=registry), registry, partners))


def states(results: dict[str, LawResult]) -> dict[str, str]:
    return {law: result.state for law, result in results.items()}


@pytest.mark.usefixtures("no_process")
def test_a_model_of_the_defaults_holds_every_law() -> None:
    found = by_law(check_composition("dit", options=QUICK))
    assert set(states(found).values()) == {"held"}
    assert 0 < (found["training_lowers_the_loss"].value or 0) < 0.99
    assert found["training_draws_what_generation_visits"].value == pytest.approx(0.1)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    "name",
    [
        "halves",  # stages twice as large
        "together",  # the schedule that fits
        "backwards",  # the sampler that follows a schedule
    ],
)
def test_what_it_needs_is_found(name: str, registry: Registry) -> None:
    found = judged(f"acme/{name}", registry)
    assert set(states(found).values()) == {"held"}


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(("kind", "name"), [("backbone", "video_dit"), ("dataset", "moving_shapes")])
def test_what_takes_clips_alone_gets_partners_that_do(kind: str, name: str, registry: Registry) -> None:
    subject = subject_of(name, kind, QUICK if kind == "backbone" else {}, registry)
    partners = {} if kind == "backbone" else {"backbone": {"name": "video_dit", "options": QUICK}}
    found = by_law(composition.judge_model(subject, registry, partners))
    assert set(states(found).values()) == {"held"}, found


@pytest.mark.parametrize(("kind", "name"), [("stage_schedule", "simultaneous"), ("dataset", "moving_shapes")])
def test_the_default_network_is_a_small_one(kind: str, name: str, tmp_path: Path) -> None:
    registry = Registry.discover({})
    config = SmallConfig(subject_of(name, kind, registry=registry), registry, tmp_path, {}).accepted().config
    network = config.component("backbone")
    assert network.name == ("video_dit" if kind == "dataset" else "dit")
    assert {name: network.options[name] for name in ("depth", "width", "heads")} == {
        "depth": 1,
        "width": 64,
        "heads": 2,
    }


BROKEN = {
    "refusing": ("fits_the_default_partners", "each of 9 choices.*no size is good enough"),
    "last": (
        "training_draws_what_generation_visits",
        "'progressive' shows the network stages 1; 1[+]2 .* 'acme/last' never draws.* No stage schedule",
    ),
    "idle": ("training_lowers_the_loss", "the loss went from .* at most 0.999 of it"),
    "cropping": (
        "generates_images_and_previews",
        r"preview of 1 stage: expected \(4, 3, 8, 8\), got \(4, 3, 8, 7\)",
    ),
    "infinite": ("generates_images_and_previews", "expected finite images, got 0% finite"),
}


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("name", BROKEN)
def test_each_law_is_broken_alone(name: str, registry: Registry) -> None:
    law, message = BROKEN[name]
    found = judged(f"acme/{name}", registry)
    assert [name for name, state in states(found).items() if state == "broken"] == [law]
    assert re.search(message, found[law].message)
    before = LAWS[: LAWS.index(law)]
    assert all(found[name].state == "held" for name in before)
    # What could not be made is not judged.
    made = law in ("training_lowers_the_loss", "generates_images_and_previews")
    after = {found[name].state for name in LAWS[LAWS.index(law) + 1 :]}
    assert after == ({"held"} if made else {"skipped"})


def test_what_depends_on_the_process_is_found(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(function: object, *given: object) -> str:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        return composition.digest(composition.load(*given, registry=registry).generate(4))  # type: ignore[arg-type]

    monkeypatch.setattr(composition, "call_fresh", call)
    found = judged("acme/process", registry)
    assert [name for name, state in states(found).items() if state == "broken"] == ["reloads_to_the_same_samples"]
    assert "a fresh process generates other images" in found["reloads_to_the_same_samples"].message


def test_every_law_has_its_breaker() -> None:
    assert {law for law, _ in BROKEN.values()} | {"reloads_to_the_same_samples"} == set(LAWS)
    assert len(SIZES) == 9
    assert CLIP_SIZES[1:] == SIZES


def test_what_failed_is_not_tried_again() -> None:
    calls = []

    def make() -> None:
        calls.append(1)
        raise ZeroDivisionError

    once = Once(make, "it failed")
    with pytest.raises(ZeroDivisionError):
        once()
    with pytest.raises(LawSkipped, match="it failed"):
        once()
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, name in built_in() if KINDS[kind].part_of_run and not needs_files(kind, name)],
)
def test_every_built_in_component_makes_a_model(kind: str, name: str) -> None:
    found = by_law(check_composition(name, kind=kind))
    assert set(states(found).values()) == {"held"}, found
