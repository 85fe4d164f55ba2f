"""Whole runs, small and real: train, stop, resume, begin from other weights, export, load; names and objects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dfm_core as dfm
from dfm_core.errors import CheckpointError, CompositionError, ConfigError, UsageError
from dfm_core.interfaces.decomposition import Decomposition, DecompositionFacts
from dfm_core.interfaces.timestep_sampler import TimestepSampler, TimestepSamplerFacts
from dfm_core.plugins.registry import default_registry
from dfm_core.runs.beginning import hint_at_small_stages
from dfm_core.training.checkpoint import list_checkpoints
from dfm_core.training.metrics_log import read_metrics
from dfm_core.training.run_directory import RunDirectory
from dfm_plugins.timestep_samplers.progressive import ProgressiveSampler
from dfm_plugins.timestep_samplers.specs import ProgressiveOptions

TINY: dict[str, Any] = {
    "stages": [8, 16],
    "backbone": {"name": "dit", "options": {"depth": 2, "width": 32, "heads": 2}},
    "timestep_sampler": {"name": "progressive", "options": {"stage_probs": 0.5}},
    "batch_size": 4,
    "flow": {"statistics_images": 16},
    "logging": {"tensorboard": False, "sample_every": 0, "validation_every": 0, "log_every": 2},
    "device": "cpu",
    "quiet": True,
}


def tensors(run: Path, name: str = "ema") -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(run)[-1] / f"{name}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that never stopped."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    dfm.train(**TINY, max_steps=6, output=str(path))
    return path


def test_a_resumed_run_equals_one_that_never_stopped(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "halves"
    dfm.train(**TINY, max_steps=3, output=str(path))
    dfm.train(resume=path, max_steps=6, quiet=True)
    for name in ("weights", "ema", "optimizer"):
        assert same(tensors(whole, name), tensors(path, name)), name


def test_the_run_folder_tells_everything(whole: Path) -> None:
    state = json.loads((list_checkpoints(whole)[-1] / "state.json").read_text())
    assert state["step"] == 6
    assert state["data"]["classes"][:2] == ["circle", "square"]
    assert len(state["statistics"]["rms"]) == 2
    assert state["providers"]["decomposition"]["distribution"] == "decomposable-flow-matching"
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"stage_1", "stage_2"} <= set(lines[0]["parts"])
    assert (whole / "config.yaml").is_file()


def test_loading_needs_the_checkpoint_only_and_samples_are_those_of_the_seed(whole: Path, tmp_path: Path) -> None:
    model = dfm.load(whole, device="cpu")
    images = model.generate(3, seed=5)
    assert images.shape == (3, 3, 16, 16)
    assert torch.equal(images, dfm.load(whole, device="cpu").generate(3, seed=5))
    exported = model.export(tmp_path / "model")
    assert sorted(path.name for path in exported.iterdir()) == ["model.json", "model.safetensors"]
    assert torch.equal(images, dfm.load(exported, device="cpu").generate(3, seed=5))
    with pytest.raises(UsageError, match="exists already"):
        model.export(exported)


def test_a_run_begins_from_other_weights(whole: Path, tmp_path: Path) -> None:
    settings = {**TINY, "logging": {**TINY["logging"], "checkpoint_every": 0}}
    dfm.train(**settings, max_steps=1, output=str(tmp_path / "next"), init_from=whole)
    before, after = tensors(whole), tensors(tmp_path / "next", "weights")
    largest = max(float((before[key] - after[key]).abs().max()) for key in before)
    assert 0 < largest < 1e-4  # one step of the warm-up away, not a fresh network
    other = {**TINY, "backbone": {"name": "dit", "options": {"depth": 1, "width": 16, "heads": 2}}}
    with pytest.raises(CheckpointError, match="expected at least half"):
        dfm.train(**other, max_steps=1, output=str(tmp_path / "other"), init_from=whole)


def test_a_run_without_a_checkpoint_begins_anew(whole: Path, tmp_path: Path) -> None:
    """As after a kill before the first one; also one that began with the weights of another."""
    settings = {**TINY, "max_steps": 2, "init_from": str(whole), "logging": {**TINY["logging"], "checkpoint_every": 0}}
    dfm.train(**settings, output=str(tmp_path / "undisturbed"))
    killed = tmp_path / "killed"
    dfm.train(**settings, output=str(killed))
    shutil.rmtree(killed / "checkpoints")
    (killed / "checkpoints").mkdir()
    dfm.train(resume=killed)
    for group in ("weights", "ema"):
        before, after = tensors(tmp_path / "undisturbed", group), tensors(killed, group)
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert [entry["step"] for entry in read_metrics(RunDirectory(killed))] == [2]
    shutil.rmtree(killed / "checkpoints")
    (killed / "checkpoints").mkdir()
    dfm.train(resume=killed, output=str(tmp_path / "elsewhere"))
    assert tensors(tmp_path / "elsewhere", "weights").keys() == after.keys()


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not the folder of a run"):
        dfm.load(tmp_path)


def test_sample_grids_and_validation_losses_are_written(tmp_path: Path) -> None:
    settings = {
        **TINY,
        "logging": {
            "tensorboard": True,
            "sample_every": 2,
            "validation_every": 2,
            "validation_images": 8,
            "log_every": 2,
        },
    }
    settings["sampling"] = {"num": 4}
    dfm.train(**settings, max_steps=4, output=str(tmp_path / "run"))
    assert sorted(p.name for p in (tmp_path / "run" / "samples").iterdir()) == [
        "step_00000002.png",
        "step_00000004.png",
    ]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation"]["loss"] for line in lines if "validation" in line]
    assert len(losses) == 2
    assert losses[0] != losses[1]
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_what_a_killed_process_left_of_a_sample_grid_goes_when_the_run_goes_on(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    stale, others = run / "samples" / ".step_00000002.png.123.tmp", run / "samples" / "of-mine.png"
    stale.write_bytes(b"half")
    others.write_bytes(b"whole")
    dfm.train(resume=run)
    assert not stale.exists()
    assert others.exists()


def haar() -> Decomposition:
    """A decomposition made by hand, as in a notebook."""
    facts = DecompositionFacts(((8, 8), (16, 16)), 3)
    return default_registry().create("decomposition", "dwt", {"wavelet": "haar"}, facts)


def test_objects_take_the_place_of_names(tmp_path: Path) -> None:
    given = haar()
    model = dfm.train(**TINY, max_steps=2, output=str(tmp_path / "run"), decomposition=given)
    assert model.composition.space.decomposition is given
    with pytest.raises(CompositionError, match="pass it again"):
        dfm.load(tmp_path / "run")
    assert dfm.load(tmp_path / "run", objects={"decomposition": given}).generate(1).shape == (1, 3, 16, 16)


def test_a_run_with_an_object_goes_on_with_the_object(tmp_path: Path) -> None:
    given = haar()
    for name, steps in (("whole", [4]), ("halves", [2, 4])):
        dfm.train(**TINY, max_steps=steps[0], output=str(tmp_path / name), decomposition=given)
        for more in steps[1:]:
            dfm.train(resume=tmp_path / name, max_steps=more, decomposition=given, quiet=True)
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "halves"))


def test_a_factory_takes_the_place_of_a_name() -> None:
    made: list[TimestepSampler] = []

    def factory(options: object, facts: TimestepSamplerFacts) -> TimestepSampler:
        made.append(ProgressiveSampler(ProgressiveOptions(), facts))
        return made[0]

    settings = {key: value for key, value in TINY.items() if key not in ("quiet", "batch_size")}
    model = dfm.build(**{**settings, "timestep_sampler": factory})
    assert model.composition.timestep_sampler is made[0]
    assert model.generate(1).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({}, "stage 2 has a root mean square of 0.1"),
        ({"flow": {"statistics_images": 16, "standardize": True}}, None),
        ({"decomposition": "identity", "stages": [16], "timestep_sampler": "progressive"}, None),
    ],
)
def test_a_stage_far_below_its_noise_is_pointed_out(changes: dict[str, Any], hint: str | None) -> None:
    settings = {name: value for name, value in (TINY | changes).items() if name != "quiet"}
    said = hint_at_small_stages(dfm.build(**settings).composition)
    assert said is None if hint is None else str(said).startswith(hint)


def test_a_model_stands_on_presets() -> None:
    small: dict[str, Any] = {
        "backbone": {"options": {"depth": 1, "width": 16, "heads": 1}},
        "flow": {"statistics_images": 8},
        "device": "cpu",
    }
    for preset in ("flow-matching", ["dfm", "flow-matching"]):
        model = dfm.build(preset=preset, stages=[8], **small)
        assert model.composition.config.component("decomposition").name == "identity"
    with pytest.raises(ConfigError, match="preset: expected the name of a preset, or a list of them, got 3"):
        dfm.build(preset=3, **small)
