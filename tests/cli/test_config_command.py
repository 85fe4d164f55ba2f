"""`dfm config show`: the flags that make a configuration, and where each value came from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dfm_core import api
from dfm_core.cli.app import main
from dfm_core.cli.flags import KEYS, ConfigFlags, config_request
from dfm_core.config.resolve import read_config, resolve_config, to_yaml
from dfm_core.plugins.registry import default_registry


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], dict[str, str]]:
    assert main(["config", "show", "--device", "cpu", "--json", *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    return result["config"], result["origins"]


def rejected(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["config", "show", "--device", "cpu", *arguments]) == 2
    return capsys.readouterr().err


def test_every_value_has_an_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--device", "cpu"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert all(len([cell for cell in line if cell.strip()]) == 3 for line in lines)
    keys = [line[0].strip() for line in lines[1:]]
    assert {"stages", "decomposition.name", "decomposition.options.filter", "training.max_steps", "seed"} <= set(keys)


FLAGS = {
    "--decomposition": ("dwt", "decomposition.name", "dwt"),
    "--stages": ("16,32x48", "stages", [[16, 16], [32, 48]]),
    "--backbone": ("dit", "backbone.name", "dit"),
    "--schedule": ("simultaneous", "stage_schedule.name", "simultaneous"),
    "--timestep-sampler": ("tied", "timestep_sampler.name", "tied"),
    "--autoencoder": ("pixels", "autoencoder.name", "pixels"),
    "--dataset": ("folder", "dataset.name", "folder"),
    "--max-steps": ("7", "training.max_steps", 7),
    "--batch-size": ("3", "training.batch_size", 3),
    "--output": ("runs/x", "output", "runs/x"),
    "--seed": ("5", "seed", 5),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_sets_its_value(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, key, value = FLAGS[flag]
    needs_path = ["--set", "dataset.options.path=x"] if flag == "--dataset" else []
    config, origins = shown(capsys, flag, text, *needs_path)
    for part in key.split("."):
        config = config[part]
    assert config == value
    assert origins[key] == f"{flag} flag"


def test_every_flag_is_a_field() -> None:
    fields = {field.name for field in dataclasses.fields(ConfigFlags)}
    assert fields == {*KEYS, "config", "preset", "set"}


def test_data_chooses_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    config, origins = shown(capsys, "--data", "photos")
    assert config["dataset"]["name"] == "folder"
    assert config["dataset"]["options"]["path"] == str(tmp_path / "photos")
    assert (origins["dataset.name"], origins["dataset.options.path"]) == ("defaults-data preset", "--data flag")


def test_layers_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("training: {max_steps: 1, warmup_steps: 1, accumulation: 1}")
    second.write_text("training: {warmup_steps: 2, accumulation: 2, batch_size: 2}")
    files = ["--config", str(first), "--config", str(second)]
    sets = ["--set", "training.accumulation=4", "--set", "training.batch_size=4", "--batch-size", "8"]
    config, origins = shown(capsys, "--preset", "quickstart", *files, *sets)
    training = config["training"]
    numbers = (training["max_steps"], training["warmup_steps"], training["accumulation"], training["batch_size"])
    assert numbers == (1, 2, 4, 8)
    assert origins["training.learning_rate"] == "preset quickstart"
    assert origins["training.max_steps"] == f"file {first}"
    assert origins["training.warmup_steps"] == f"file {second}"
    assert origins["training.accumulation"] == "--set"
    assert origins["training.batch_size"] == "--batch-size flag"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--decomposition", "laplacain"], "unknown decomposition 'laplacain'. Did you mean 'laplacian'"),
        (["--stages", "64,32"], "stages: expected sizes that grow from coarse to fine, got 64 before 32"),
        (["--set", "training.max_step=3"], "training.max_step: unknown key. Did you mean 'max_steps'"),
        (["--set", "decomposition.options.filtre=area"], "options.filtre: unknown key. Did you mean 'filter'"),
        (["--set", "decomposition.options.filter=box"], "decomposition.options.filter: expected 'area', "),
        (
            ["--max-steps", "0"],
            "training.max_steps: expected greater than or equal to 1, got 0 (from --max-steps flag)",
        ),
        (["--preset", "quikstart"], "unknown preset 'quikstart'. Did you mean 'quickstart'"),
        (["--config", "none.yaml"], "file none.yaml: cannot be read"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    err = rejected(capsys, *arguments)
    assert err.startswith("error: ")
    assert message in err


@pytest.mark.parametrize("preset", [None, "quickstart"])
@pytest.mark.parametrize("accelerator", [False, True])
def test_the_presets_that_ship_are_valid(preset: str | None, accelerator: bool, tmp_path: Path) -> None:
    flags = ConfigFlags(preset=[preset] if preset else None)
    request = dataclasses.replace(config_request(flags), accelerator=accelerator)
    config = resolve_config(request).config
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path / "config.yaml").config == config


def test_a_gpu_has_processes_that_load_data_but_not_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    request = config_request(ConfigFlags())
    workers = {on: resolve_config(dataclasses.replace(request, accelerator=on)).config.workers for on in (False, True)}
    assert workers == {False: 0, True: 4}
    monkeypatch.setattr(api, "resolve_device", lambda device: torch.device("cuda"))
    config, _ = api.configure({}, default_registry())
    assert (config.workers, config.component("backbone").options["size"]) == (0, "S")
    assert api.configure({"workers": 2}, default_registry())[0].workers == 2


def test_the_default_of_a_gpu_is_a_larger_network() -> None:
    request = config_request(ConfigFlags())
    sizes = [
        resolve_config(dataclasses.replace(request, accelerator=accelerator))
        .config.component("backbone")
        .options["size"]
        for accelerator in (False, True)
    ]
    assert sizes == ["Ti", "S"]
