"""Plugins that are broken, greedy, slow or loud harm nobody else: alone and all at once, in Python and on the command
line; what is not asked for is not even imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_plugins import FakeSite
from hostile_street import EVERYBODY, HOSTILE, REFUSED, UNASKED, Street, provider

from dfm_core.cli.app import main
from dfm_core.errors import PluginError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.plugins.discovery import DISTRIBUTION, PluginState
from dfm_core.plugins.kinds import KINDS
from dfm_core.plugins.registry import Registry


@pytest.fixture
def street(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Street:
    for variable in ("DFM_DISABLE_PLUGINS", "DFM_STRICT_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    return Street(FakeSite(tmp_path, monkeypatch))


@pytest.fixture
def full_street(street: Street) -> Street:
    for case in EVERYBODY:
        street.install(case)
    return street


def check_the_others(registry: Registry) -> None:
    """Built-in components of every kind and the good neighbour work."""
    for kind in KINDS:
        names = [name for name in registry.names(kind) if "/" not in name]
        assert names
        for name in names:
            assert registry.get(kind, name).plugin.distribution == DISTRIBUTION
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in ("laplacian", "kind/pyramid"):
        pyramid = registry.create("decomposition", name, {}, DecompositionFacts(((4, 4), (8, 8)), 3))
        torch.testing.assert_close(pyramid.recompose(pyramid.decompose(x)), x)


def check_it_is_told(registry: Registry, case: str) -> None:
    """Whoever asks for the hostile plugin hears what is wrong and whose it is."""
    hostile = HOSTILE[case]
    record = registry.load(case)
    assert record.state is hostile.state
    if hostile.state is PluginState.LOADED:
        return
    with pytest.raises(PluginError) as caught:
        registry.get("decomposition", f"{case}/good")
    assert provider(case) in str(caught.value)
    assert re.search(hostile.message, str(caught.value))
    assert not record.components


@pytest.mark.parametrize("case", EVERYBODY)
def test_a_neighbour_is_not_touched(street: Street, case: str) -> None:
    street.install(case)
    check_the_others(Registry.discover({}))
    assert street.imported() == {"kind"}


@pytest.mark.parametrize("case", HOSTILE)
def test_asking_for_it_harms_nobody_either(street: Street, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    street.install(case)
    registry = Registry.discover({})
    before = {record.info.namespace: record.state for record in registry.plugins()}
    check_it_is_told(registry, case)
    after = {record.info.namespace: record.state for record in registry.plugins()}
    assert after == {**before, case: HOSTILE[case].state}
    check_the_others(registry)
    assert capfd.readouterr().out == ""


def test_two_that_claim_one_namespace_are_both_named(street: Street) -> None:
    street.install("twin")
    street.install("other")
    registry = Registry.discover({})
    with pytest.raises(PluginError) as caught:
        registry.get("decomposition", "twin/good")
    assert all(name in str(caught.value) for name in ("dfm-twin 1.2", "dfm-other 1.2"))
    check_the_others(registry)
    assert street.imported() == {"kind"}


def test_all_at_once_in_python(full_street: Street) -> None:
    registry = Registry.discover({})
    check_the_others(registry)
    assert full_street.imported() == {"kind"}
    for case in HOSTILE:
        check_it_is_told(registry, case)
    for case, (namespace, rival) in REFUSED.items():
        claims = [r for r in registry.plugins() if r.info.provider == provider(case)]
        assert [claim.state for claim in claims] == [PluginState.CONFLICT]
        assert provider(case) in claims[0].message
        assert rival in claims[0].message
        assert claims[0].info.namespace == namespace
    check_the_others(registry)
    assert full_street.imported() == {"kind", *HOSTILE}


TINY = [
    *("--stages", "8,16", "--device", "cpu", "--batch-size", "2"),
    *("--set", "backbone.options.depth=1", "--set", "backbone.options.width=32", "--set", "backbone.options.heads=2"),
    *("--set", "flow.statistics_images=2", "--set", "logging.tensorboard=false"),
]
COMMANDS = [
    ["plugins", "list", "--json"],
    ["plugins", "show", "laplacian", "--json"],
    ["config", "show", "--json"],
    ["schedule", "--stages", "8,16", "--json"],
    ["env", "--json"],
    ["train", *TINY, "--dry-run", "--json"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]))
def test_commands_import_no_neighbour(
    full_street: Street, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)
    assert full_street.imported() == set()


def test_the_list_says_who_is_refused(full_street: Street, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "list", "--json"]) == 0
    states = {record["distribution"]: record["state"] for record in json.loads(capsys.readouterr().out)}
    refused = {provider(case).split()[0]: "conflict" for case in REFUSED}
    rest = {provider(case).split()[0]: "not loaded" for case in [*HOSTILE, *UNASKED, "kind"]}
    assert {name: states[name] for name in (*refused, *rest)} == {**refused, **rest}
    assert states[DISTRIBUTION] == "loaded"


def test_a_wrong_name_of_a_component_is_told_without_them(
    full_street: Street, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, "--dry-run", "--decomposition", "laplacain"]) == 2
    assert "Did you mean 'laplacian'" in capsys.readouterr().err
    assert full_street.imported() == set()


def dfm(street: Street, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `dfm` in a fresh process that sees the street."""
    path = os.pathsep.join(filter(None, [str(street.site.folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(
        [sys.executable, "-m", "dfm_core", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=street.site.folder,
        timeout=120,
        check=False,
    )


def test_a_fresh_process_trains_beside_all_of_them(full_street: Street) -> None:
    flags = ["--decomposition", "kind/pyramid", "--max-steps", "1", "--output", "run", "--json"]
    done = dfm(full_street, "train", *TINY, *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 1
    assert "a component may print, too" in done.stderr
    assert full_street.imported() == {"kind"}
    assert "plugin" not in done.stderr


def test_an_exit_at_import_ends_no_command_that_does_not_ask_for_it(full_street: Street) -> None:
    listed = dfm(full_street, "plugins", "list", "--json")
    assert (listed.returncode, full_street.imported()) == (0, set())
    shown = dfm(full_street, "plugins", "show", "sys_exit")
    assert shown.returncode == 0, shown.stderr
    assert "plugin 'sys_exit' of dfm-sys-exit 1.2 is broken: SystemExit: no licence" in shown.stdout
    assert full_street.imported() == {"sys_exit"}


def test_what_a_plugin_prints_does_not_reach_the_json(full_street: Street) -> None:
    shown = dfm(full_street, "plugins", "show", "printing", "--json")
    assert json.loads(shown.stdout)["plugin"]["state"] == "loaded"
    assert "hi" in shown.stderr


def test_loading_all_of_them_tells_each_fault(full_street: Street) -> None:
    listed = dfm(full_street, "plugins", "list", "--load", "--json", DFM_DISABLE_PLUGINS="slow")
    assert listed.returncode == 0, listed.stderr
    records = {record["distribution"]: record for record in json.loads(listed.stdout)}
    for case, hostile in HOSTILE.items():
        record = records[provider(case).split()[0]]
        assert record["state"] == hostile.state, record
        assert re.search(hostile.message, record["note"])
        assert hostile.state is PluginState.LOADED or provider(case) in record["note"]
    assert "dfm-os-exit 1.2 is broken: its import ended the process with exit code 3" in records["dfm-os-exit"]["note"]
    assert records["dfm-kind"]["components"]["decomposition"][0]["name"] == "kind/pyramid"
    assert [records[f"dfm-{case}"]["state"] for case in REFUSED] == ["conflict"] * len(REFUSED)
    assert (records["dfm-slow"]["state"], records[DISTRIBUTION]["state"]) == ("disabled", "loaded")
    assert full_street.imported() == {"kind", "os_exit", *HOSTILE}


def test_ill_written_metadata_harms_nobody(street: Street) -> None:
    """An entry point without a module, a file that is none, and a distribution that does not say its name."""
    for name, text in {"hollow": "[dfm_core]\nhollow =\n", "noise": "\x00 noise\n", "empty": ""}.items():
        folder = street.site.folder / f"{name}-1.2.dist-info"
        folder.mkdir()
        (folder / "entry_points.txt").write_text(text)
    registry = Registry.discover({})
    assert registry.load("hollow").state is PluginState.BROKEN
    check_the_others(registry)
