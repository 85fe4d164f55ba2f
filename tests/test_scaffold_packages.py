"""Scaffolds of every kind, installed into one fresh environment by pip and used as their authors would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fresh_environment import Environment, make_environment

from dfm_core.plugins.kinds import KINDS, RUN_KINDS
from dfm_core.plugins.scaffold import Scaffold

pytestmark = pytest.mark.slow

SCAFFOLDS = {kind: Scaffold(f"lab-{kind.replace('_', '-')}", kind, "mine") for kind in KINDS}
SMALL = [
    *("--device", "cpu", "--stages", "16,32", "--batch-size", "2", "--max-steps", "2"),
    *("--set", "backbone.options.depth=1", "--set", "backbone.options.width=48"),
    *("--set", "flow.statistics_images=4", "--set", "logging.tensorboard=false"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment into which pip has installed one new package of each kind."""
    fresh = make_environment(tmp_path_factory.mktemp("environment"))
    for scaffold in SCAFFOLDS.values():
        fresh.dfm("plugins", "new", scaffold.namespace, "--kind", scaffold.kind, "--name", scaffold.name)
    places = [argument for scaffold in SCAFFOLDS.values() for argument in ("-e", f"{scaffold.distribution}[test]")]
    fresh.run("-m", "pip", "install", "--quiet", *places)
    return fresh


def test_all_are_listed_and_none_is_imported(environment: Environment) -> None:
    records = {record["plugin"]: record for record in json.loads(environment.dfm("plugins", "list", "--json"))}
    for scaffold in SCAFFOLDS.values():
        record = records[scaffold.namespace]
        assert (record["distribution"], record["version"]) == (scaffold.distribution, "0.1.0")
        assert record["state"] == "not loaded"


# The laws of every kind run in the package's own tests; here the command, which also trains.
@pytest.mark.parametrize("kind", ["decomposition", "backbone"])
def test_holds_the_laws(kind: str, environment: Environment) -> None:
    environment.dfm("plugins", "check", SCAFFOLDS[kind].component)


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass_untouched(kind: str, environment: Environment) -> None:
    summary = environment.run("-m", "pytest", cwd=environment.work / SCAFFOLDS[kind].distribution).splitlines()[-1]
    assert " passed" in summary
    assert "failed" not in summary


def test_a_metric_measures_a_run(environment: Environment) -> None:
    run = environment.work / "run-to-measure"
    environment.dfm("train", *SMALL, "--output", run)
    asked = ["--metrics", SCAFFOLDS["metric"].component, "--num", 4, "--reference-num", 8, "--steps", "2,2"]
    made = json.loads(environment.dfm("eval", run, *asked, "--cache", environment.work / "cache", "--json"))
    ((result,),) = [row["results"] for row in made["rows"]]
    assert result["values"]


@pytest.mark.parametrize("kind", RUN_KINDS)
def test_trains_and_samples(kind: str, environment: Environment) -> None:
    scaffold, run = SCAFFOLDS[kind], environment.work / f"run-{kind}"
    environment.dfm("train", scaffold.flag, scaffold.component, *SMALL, "--output", run)
    made = json.loads(environment.dfm("sample", run, "--num", 2, "--steps", "2,2", "--device", "cpu", "--json"))
    assert (made["images"], made["steps"]) == (2, 4)
    assert all((Path(made["folder"]) / file).is_file() for file in made["files"])
