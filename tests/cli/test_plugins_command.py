"""`dfm plugins list|show`, and what every command does with errors and output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import STEERABLE, FakeSite

from dfm_core.cli.app import main
from dfm_core.plugins.registry import default_registry


@pytest.fixture(autouse=True)
def _fresh_registry(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("DFM_DISABLE_PLUGINS", raising=False)
    default_registry.cache_clear()
    yield
    default_registry.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSite:
    return FakeSite(tmp_path, monkeypatch)


def out(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(arguments) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_list_shows_every_plugin_and_imports_no_other(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.plugin("acme", "raise RuntimeError('imported')")
    lines = out(capsys, "plugins", "list").splitlines()
    assert any(line.split()[:4] == ["acme", "dfm-acme", "1.2", "not"] for line in lines)
    assert any(line.split()[:2] == ["decomposition", "laplacian"] for line in lines)
    assert any(line.split()[0] == "quickstart" for line in lines if line)
    assert "acme_plugin" not in sys.modules


def test_list_as_json(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.module("one", "")
    site.distribution("dfm-one", "1.0", "acme = one")
    site.distribution("dfm-two", "2.0", "acme = one")
    records = json.loads(out(capsys, "plugins", "list", "--json"))
    assert [record["plugin"] for record in records] == ["builtin", "acme", "acme"]
    assert [record["state"] for record in records] == ["loaded", "conflict", "conflict"]
    assert {row["name"] for row in records[0]["components"]["stage_schedule"]} >= {"progressive", "simultaneous"}


def test_show_a_component(capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, "plugins", "show", "laplacian")
    assert "decomposition" in text
    assert any(line.split()[0] == "filter" and "area" in line for line in text.splitlines() if line)
    assert "reference" in text


def test_show_every_kind_that_has_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(out(capsys, "plugins", "show", "progressive", "--json"))
    assert [component["kind"] for component in shown["components"]] == ["stage_schedule", "timestep_sampler"]
    schedule = shown["components"][0]
    assert schedule["capabilities"] == {"progressive": True}
    steps = next(option for option in schedule["options"] if option["name"] == "steps")
    assert steps["type"] == "list of int >= 1 | null"
    assert steps["default"] is None
    assert steps["description"]


def test_show_a_component_of_another_plugin(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.plugin("acme", STEERABLE)
    (component,) = json.loads(out(capsys, "plugins", "show", "acme/steerable", "--json"))["components"]
    assert (component["name"], component["distribution"], component["options"]) == ("acme/steerable", "dfm-acme", [])
    assert "No options" in out(capsys, "plugins", "show", "acme/steerable")


def test_show_a_plugin(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.plugin("acme", STEERABLE)
    text = out(capsys, "plugins", "show", "acme")
    assert "loaded" in text
    assert "acme/steerable" in text


def test_show_a_broken_plugin_with_its_traceback(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.plugin("acme", "import no_such_module")
    text = out(capsys, "plugins", "show", "acme")
    assert "broken" in text
    assert "Traceback" in text
    assert "No module named 'no_such_module'" in text
    message = out(capsys, "plugins", "show", "acme/x", code=2)
    assert message.startswith("error: plugin 'acme' of dfm-acme 1.2 is broken")
    assert "Traceback" not in message


def test_show_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    message = out(capsys, "plugins", "show", "laplacain", code=2)
    assert message.startswith("error: no component or plugin is called 'laplacain'. Did you mean 'laplacian'")
    assert "dfm plugins list" in message


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    message = out(capsys, "plugins", "show", "nothing", "--debug", code=2)
    assert "Traceback" in message
    assert "error: no component" in message
    assert "Traceback" not in out(capsys, "plugins", "show", "nothing", code=2)


def test_quiet_keeps_the_results(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.plugin("acme", STEERABLE)
    assert main(["plugins", "list"]) == 0
    loud = capsys.readouterr()
    assert main(["plugins", "list", "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert (loud.out, quiet.err) == (quiet.out, "")
    assert "dfm plugins show NAME" in loud.err


def test_piped_output_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, "plugins", "show", "dit")
    assert "\x1b" not in text
    assert "│" not in text
    assert "…" not in text.replace("1, 2, …", "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "--version") == "dfm 0.1.0\n"


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["--nothing"], ["plugins", "show"], ["config", "show", "--seed", "x"]]
)
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (ValueError("odd"), 1, "ValueError: odd"),
        (OSError(28, "No space left on device", "runs/x"), 1, "No space left on device: 'runs/x'"),
        (MemoryError("1 GiB"), 1, "out of memory"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_unforeseen_errors(
    failure: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object) -> None:
        raise failure

    monkeypatch.setattr("dfm_core.plugins.registry.Registry.load", fail)
    err = out(capsys, "plugins", "list", code=code)
    assert message in err
    assert ("this is a bug" in err) == isinstance(failure, ValueError)
    assert "Traceback" not in err
