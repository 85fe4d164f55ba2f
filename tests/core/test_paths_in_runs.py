"""Paths in whole runs: presets of the competing systems, weights that begin a second run, runs from before paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dfm_core as dfm
from dfm_core.composition import Composition
from dfm_core.config.resolve import ConfigRequest, Level, resolve_config
from dfm_core.errors import CompositionError, ConfigError
from dfm_core.interfaces.backbone import BackboneFacts
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.interfaces.timestep_sampler import TimestepSamplerFacts
from dfm_core.model import DESCRIPTION_FILE, Model, load
from dfm_core.network_facts import training_flops, visible_rows
from dfm_core.plugins.registry import default_registry
from dfm_core.training.run_directory import CONFIG_FILE

TINY: dict[str, Any] = {
    "device": "cpu",
    "stages": [8, 16],
    "batch_size": 4,
    "max_steps": 2,
    "flow": {"statistics_images": 8},
    "logging": {"tensorboard": False, "sample_every": 0, "checkpoint_every": 0, "validation_every": 0},
}
NETWORK = {"depth": 1, "width": 16, "heads": 1}


def train(output: Path, preset: str, options: dict[str, Any] | None = None, **settings: Any) -> Model:
    network = {"backbone": {"options": {**NETWORK, **(options or {})}}}
    return dfm.train(**{**TINY, "preset": preset, **network, "output": str(output), **settings})


@pytest.mark.parametrize(
    ("preset", "calls", "settings"),
    [
        ("flow-matching", 40, {"stages": [16]}),
        ("dfm", 40, {}),
        ("pyramidal-flow", 40, {}),
        ("pyramidal-flow", 40, {"stages": [4, 8, 16]}),
    ],
)
def test_a_preset_trains_and_generates(tmp_path: Path, preset: str, calls: int, settings: dict[str, Any]) -> None:
    model = train(tmp_path / "run", preset, **settings)
    steps = list(model.stream(3, seed=5))
    assert len(steps) == calls
    assert steps[-1].preview().shape == (3, 3, 16, 16)
    assert [s.num_visible for s in steps if s.stage_finished] == list(range(1, len(model.composition.layout) + 1))
    again = load(tmp_path / "run", device="cpu")
    torch.testing.assert_close(again.generate(3, seed=5), model.generate(3, seed=5), rtol=0, atol=0)


@pytest.mark.parametrize("preset", ["flow-matching", "dfm", "cascaded", "cascaded-second", "pyramidal-flow"])
def test_a_system_named_after_the_quickstart_is_a_configuration(preset: str) -> None:
    """docs/baselines.md: what it does not know of the quickstart's sampler and network goes."""
    config = resolve_config(ConfigRequest(presets=("quickstart", preset))).config
    assert config.training.max_steps == 7600
    sampler = config.component("timestep_sampler")
    assert (sampler.options.get("current_location") == -1.3) == (sampler.name == "progressive")
    with pytest.raises(ConfigError, match="timestep_sampler.options.current_location: unknown key"):
        resolve_config(ConfigRequest(presets=("pyramidal-flow", "quickstart")))


@pytest.mark.parametrize("preset", ["pyramidal-flow", "dfm"])
def test_an_image_s_bits_depend_on_its_number_only(tmp_path: Path, preset: str) -> None:
    """Also with the noise that enters where stages change."""
    model = train(tmp_path / "run", preset)
    together = model.generate(3, seed=5, labels=[0])
    *_, alone = model.stream(1, seed=5, labels=[0], first_index=2)
    assert torch.equal(together[2:], alone.preview().clamp(-1, 1))
    assert not torch.equal(together[0], together[1])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first run of a cascade."""
    path = tmp_path_factory.mktemp("cascade") / "first"
    train(path, "cascaded")
    return path


def weights(composition: Composition) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in composition.model.backbone.state_dict().items()}


def test_the_first_cascaded_run_generates_its_stage_alone(first: Path) -> None:
    steps = list(load(first, device="cpu").stream(2))
    assert len(steps) == 20
    assert steps[-1].preview().shape == (2, 3, 8, 8)
    assert steps[-1].t.tolist() == [1.0, 0.0]


def test_the_second_cascaded_run_begins_with_the_first_and_leaves_it_alone(first: Path, tmp_path: Path) -> None:
    before = weights(load(first, device="cpu").composition)
    model = train(tmp_path / "second", "cascaded-second", init_from=first)
    after = weights(model.composition)
    shared = [name for name in before if name.startswith("experts.0.blocks.")]
    for name in shared:
        assert torch.equal(after[name], before[name])
        own = name.replace("experts.0.", "experts.1.")
        assert not torch.equal(after[own], before[own])
        # Two steps away from the first stage's weights, not from weights of its own.
        assert (after[own] - before[name]).abs().max() < 1e-2
    steps = list(model.stream(2, seed=1))
    assert len(steps) == 40
    resting = [step.stages[0] for step in steps[20:]]
    assert all(torch.equal(stage, resting[0]) for stage in resting)
    clean = steps[19].stages[0]
    noise = (resting[0] - 0.975 * clean) / 0.025
    assert 0.7 < noise.std() < 1.3


def test_the_second_cascaded_run_needs_the_first(tmp_path: Path) -> None:
    with pytest.raises(CompositionError, match="does not train stages 1: .*--init-from RUN"):
        train(tmp_path / "run", "cascaded-second")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "pyramidal"}, "--decomposition downsampled"),
        ({"path": "pyramidal", "decomposition": "downsampled"}, "--schedule consecutive"),
        ({"path": "cascaded"}, r"whole pictures or clips \(--decomposition downsampled\)"),
        ({"path": "cascaded", "decomposition": "downsampled"}, "thresholds=1"),
        ({"path": "pyramidal", "decomposition": "downsampled", "stages": [4, 16]}, "twice as high and wide"),
    ],
)
def test_what_does_not_fit_a_path_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CompositionError, match=message):
        dfm.train(
            **{**TINY, "backbone": {"name": "dit", "options": NETWORK}, "output": str(tmp_path / "run"), **settings}
        )


def test_a_trained_model_refuses_a_schedule_that_its_path_cannot_walk(tmp_path: Path) -> None:
    model = train(tmp_path / "run", "pyramidal-flow")
    with pytest.raises(CompositionError, match="--schedule consecutive"):
        model.with_schedule("progressive")
    assert model.with_schedule(steps=[2, 3]).composition.grid.num_steps == 5


def test_the_second_cascaded_run_noises_its_condition_as_the_paper_does() -> None:
    """a = sigmoid(N(1.5, 1)), whatever another preset has said of earlier stages."""
    other = {"timestep_sampler": {"name": "progressive", "options": {"earlier_location": 0.0, "earlier_scale": 3.0}}}
    request = ConfigRequest(presets=("cascaded-second",), below=(Level(other),))
    choice = resolve_config(request).config.component("timestep_sampler")
    facts = TimestepSamplerFacts(2, ScheduleGrid(torch.zeros(2, 2), torch.ones(1, 2, dtype=torch.bool)))
    sampler = default_registry().create("timestep_sampler", choice.name, choice.options, facts)
    draw = sampler.sample(20_000, torch.Generator().manual_seed(0))
    logits = torch.logit(draw.t.double())
    assert logits.mean(0).tolist() == pytest.approx([1.5, 0.0], abs=0.03)
    assert logits.std(0).tolist() == pytest.approx([1.0, 1.0], abs=0.03)
    assert (draw.visible.all(), draw.trained.all(0).tolist()) == (True, [False, True])


def test_frozen_stages_that_are_not_there_are_refused(tmp_path: Path) -> None:
    for frozen in ([3], [1, 2]):
        with pytest.raises(ConfigError, match=r"backbone.options.frozen: expected some of the stages 1 to 2"):
            train(tmp_path / "run", "cascaded", {"frozen": frozen})


def test_a_run_from_before_there_were_paths_goes_straight(tmp_path: Path) -> None:
    train(tmp_path / "run", "dfm")
    config = tmp_path / "run" / CONFIG_FILE
    lines = config.read_text().splitlines(keepends=True)
    at = lines.index("path:\n")
    length = 1 + next(index for index, line in enumerate(lines[at + 1 :]) if not line.startswith(" "))
    config.write_text("".join(lines[:at] + lines[at + length :]))
    resumed = dfm.train(resume=tmp_path / "run", max_steps=3)
    assert resumed.composition.config.component("path").name == "straight"


def test_an_exported_model_from_before_there_were_paths_goes_straight(tmp_path: Path) -> None:
    trained = train(tmp_path / "run", "dfm")
    described = trained.export(tmp_path / "model") / DESCRIPTION_FILE
    saved = json.loads(described.read_text())
    del saved["config"]["path"], saved["providers"]["path"]
    described.write_text(json.dumps(saved))
    loaded = load(tmp_path / "model", device="cpu")
    assert loaded.composition.config.component("path").name == "straight"
    assert torch.equal(loaded.generate(2, seed=1), trained.generate(2, seed=1))


def test_flops_are_those_of_the_stages_that_are_drawn() -> None:
    """A coarse stage has a quarter of the tokens, so half of the samples at each cost 5/8 of the finest alone."""
    network = {"depth": 1, "width": 64, "heads": 1}
    registry = default_registry()
    layout = registry.create("decomposition", "downsampled", {}, DecompositionFacts(((16, 16), (32, 32)), 3)).layout(
        (3, 32, 32)
    )
    backbone = registry.create("backbone", "pyramid_dit", network, BackboneFacts(layout, 0))
    both, fine = ({(True, False): 0.5, (False, True): 0.5}, {(False, True): 1.0})
    share = training_flops(backbone, layout, 8, False, both) / training_flops(backbone, layout, 8, False, fine)
    assert 0.5 < share < 0.625  # attention is cheaper still for few tokens


def test_rows_are_shared_out_by_largest_remainder() -> None:
    rows = visible_rows({(True, False): 0.7, (True, True): 0.3}, 4)
    assert rows.sum(0).tolist() == [4, 1]
    assert visible_rows({(True,): 1.0}, 3).tolist() == [[True]] * 3
