"""The example of a third party's package: components that core does not know, and core as it is."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from fake_plugins import FakeSite
from fresh_environment import Environment, make_environment

from dfm_core.cli.app import main
from dfm_core.plugins.kinds import KINDS
from dfm_core.plugins.registry import Registry

EXAMPLE = Path(__file__).parents[1] / "examples" / "third_party_plugin"
PROJECT = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
MODULES = sorted(EXAMPLE.rglob("*.py"))
STABLE = ("interfaces", "stages", "flow", "residual_pyramid", "randomness", "plugins", "conformance", "errors")
COMPONENTS = {
    "decomposition": "example/steerable",
    "backbone": "example/unet",
    "stage_schedule": "example/cosine",
    "timestep_sampler": "example/beta",
    "autoencoder": "example/orthogonal",
    "dataset": "example/text",
    "path": "example/trigonometric",
    "metric": "example/kernel_distance",
}
PARTS = [kind for kind in COMPONENTS if KINDS[kind].part_of_run]
SMALL = [
    *("--device", "cpu", "--stages", "16,32", "--batch-size", "4", "--max-steps", "2"),
    *("--set", "flow.statistics_images=16", "--set", "logging.tensorboard=false"),
]
UNET_SMALL = ["--set", "backbone.options.width=16"]
DIT_SMALL = ["--set", "backbone.options.width=48", "--set", "backbone.options.depth=1"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example on the path with its metadata, as pip would install it; the folder that holds the metadata."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        site = FakeSite(tmp_path_factory.mktemp("site"), monkeypatch)
        monkeypatch.syspath_prepend(EXAMPLE)
        try:
            distribution(PROJECT["name"])  # somebody installed it here
        except PackageNotFoundError:
            points = [f"{name} = {module}" for name, module in PROJECT["entry-points"]["dfm_core"].items()]
            site.distribution(PROJECT["name"], PROJECT["version"], *points)
        yield site.folder
    for name in [name for name in sys.modules if name.split(".")[0] == "dfm_example"]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_it_imports_the_stable_part_of_core_only(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    of_core = [name.split(".") for name in names if name.startswith(("dfm_core", "dfm_plugins"))]
    assert all(len(name) > 1 and name[0] == "dfm_core" and name[1] in STABLE for name in of_core), names


def test_nothing_that_ships_mentions_it() -> None:
    packages = [EXAMPLE.parents[1] / package for package in ("dfm_core", "dfm_plugins")]
    assert not [path for package in packages for path in package.rglob("*.py") if "dfm_example" in path.read_text()]


def test_it_has_one_component_of_each_kind(installed: Path) -> None:
    registry = Registry.discover({})
    assert set(COMPONENTS) == set(KINDS)
    for kind, name in COMPONENTS.items():
        spec = registry.get(kind, name).spec
        assert spec.reference
        assert all(field.description for field in spec.options.model_fields.values())
    record = registry.load("example")
    assert (record.info.distribution, record.info.version) == (PROJECT["name"], PROJECT["version"])


def test_listing_it_imports_no_torch(installed: Path) -> None:
    code = "import sys, dfm_example.plugin; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=environment_with(installed), check=True)


def test_its_own_tests_pass(installed: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs"]
    done = subprocess.run(
        command, cwd=EXAMPLE, env=environment_with(installed), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all("is not declared" in line or "no accelerator" in line for line in skipped), skipped


def test_all_train_sample_and_measure_together(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *flags(*PARTS), *SMALL, *UNET_SMALL, "--output", str(tmp_path / "run"), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "run"), "--num", "2", "--steps", "3", "--previews", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["steps"] == 5  # three a stage, and the second sets off one before the first arrives
    assert len(made["files"]) == 9
    assert all((Path(made["folder"]) / file).is_file() for file in made["files"])
    asked = ["--metrics", COMPONENTS["metric"], "--num", "4", "--reference-num", "4", "--steps", "1"]
    assert main(["eval", str(tmp_path / "run"), *asked, "--cache", str(tmp_path / "cache"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["results"][0]["values"]["kernel_distance"] > 0
    (state,) = (tmp_path / "run").glob("checkpoints/*/state.json")
    for provider in json.loads(state.read_text())["providers"].values():
        assert (provider["distribution"], provider["version"]) == (PROJECT["name"], PROJECT["version"])


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment into which pip has installed a copy of the example."""
    fresh = make_environment(tmp_path_factory.mktemp("fresh"))
    shutil.copytree(EXAMPLE, fresh.work / "copy", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    fresh.run("-m", "pip", "install", "--quiet", fresh.work / "copy")
    return fresh


@pytest.mark.slow
def test_pip_installs_it(fresh: Environment) -> None:
    plugins = {plugin["plugin"]: plugin for plugin in json.loads(fresh.dfm("plugins", "list", "--load", "--json"))}
    example = plugins["example"]
    assert (example["distribution"], example["version"], example["state"]) == ("dfm-example", "0.1.0", "loaded")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["example/steerable", "example/unet"])
def test_its_components_pass_the_check(fresh: Environment, name: str) -> None:
    fresh.dfm("plugins", "check", name)


@pytest.mark.slow
def test_its_own_tests_pass_where_it_is_installed(fresh: Environment) -> None:
    fresh.run("-m", "pytest", cwd=fresh.work / "copy")


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [*((kind,) for kind in PARTS), tuple(PARTS)], ids="+".join)
def test_it_trains_and_samples_where_it_is_installed(fresh: Environment, kinds: tuple[str, ...]) -> None:
    run = fresh.work / "+".join(kinds)
    small = UNET_SMALL if "backbone" in kinds else DIT_SMALL
    fresh.dfm("train", *flags(*kinds), *SMALL, *small, "--output", run)
    made = json.loads(fresh.dfm("sample", run, "--num", 2, "--steps", "2,2", "--device", "cpu", "--json"))
    assert (made["images"], len(made["files"])) == (2, 3)
    assert all((Path(made["folder"]) / file).is_file() for file in made["files"])


def flags(*kinds: str) -> list[str]:
    """Flags that choose the example's component for each of these kinds."""
    return [part for kind in kinds for part in (f"--{kind.removeprefix('stage_').replace('_', '-')}", COMPONENTS[kind])]


def environment_with(site: Path) -> dict[str, str]:
    """Variables of a process that has the example installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(EXAMPLE)])}
