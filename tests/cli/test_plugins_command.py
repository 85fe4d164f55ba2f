"""`dfm plugins list|show`: every state of a plugin; and what every command does with errors and output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fake_plugins import STEERABLE, FakeSite

from dfm_core.cli.app import main


@pytest.fixture(autouse=True)
def _all_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DFM_DISABLE_PLUGINS", raising=False)
    monkeypatch.delenv("DFM_STRICT_PLUGINS", raising=False)


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


STATES = {
    "fine": (STEERABLE, "loaded", ""),
    "import": ("import no_such_module", "broken", "No module named 'no_such_module'"),
    "exit": ("import os\nos._exit(3)", "broken", "its import ended the process with exit code 3"),
    "signal": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "broken", "the process with signal 9"),
    "loud": ("import os\nprint('loud')\nos.write(1, b'loud')\nos.write(2, b'loud')" + STEERABLE, "loaded", ""),
    "asks": ("input('password: ')", "broken", "EOFError"),
    "lasting": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()" + STEERABLE,
        "loaded",
        "",
    ),
    "newer": ("DFM_PLUGIN_API = 2", "incompatible", "API 2, this is 1"),
    "off": ("raise RuntimeError", "disabled", "by DFM_DISABLE_PLUGINS"),
}


@pytest.fixture
def shared_site(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> FakeSite:
    """A site that other processes have too."""
    monkeypatch.setenv("PYTHONPATH", str(site.folder))
    return site


def test_load_imports_each_in_a_process_of_its_own(
    shared_site: FakeSite, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for namespace, (source, _, _) in STATES.items():
        shared_site.plugin(namespace, source)
    for number in (1, 2):
        shared_site.distribution(f"dfm-rival-{number}", f"{number}.0", "rival = rival_plugin")
    monkeypatch.setenv("DFM_DISABLE_PLUGINS", "off")
    assert main(["plugins", "list", "--load", "--json"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    plugins = {plugin["plugin"]: plugin for plugin in json.loads(captured.out)}
    assert set(plugins) == {*STATES, "builtin", "rival"}
    for namespace, (_, state, note) in STATES.items():
        assert plugins[namespace]["state"] == state, plugins[namespace]
        assert note in plugins[namespace]["note"]
        assert (f"dfm-{namespace} 1.2" in plugins[namespace]["note"]) == (state != "loaded")
    assert plugins["rival"]["state"] == "conflict"
    assert plugins["fine"]["components"]["decomposition"][0]["name"] == "fine/steerable"
    assert "No module named 'no_such_module'" in plugins["import"]["traceback"]
    assert not {f"{namespace}_plugin" for namespace in STATES} & set(sys.modules)


def test_load_stops_an_endless_import(shared_site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    shared_site.plugin("slow", "import time\nprint('slow', flush=True)\ntime.sleep(99)")
    (plugin,) = json.loads(out(capsys, "plugins", "list", "--load", "--time-limit", "1.5", "--json"))[1:]
    assert plugin["state"] == "broken"
    assert "plugin 'slow' of dfm-slow 1.2 is broken: its import took more than 1.5 s" in plugin["note"]


def test_load_as_lines(shared_site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    shared_site.plugin("acme", STEERABLE)
    lines = [line.split() for line in out(capsys, "plugins", "list", "--load").splitlines()]
    assert ["acme", "dfm-acme", "1.2", "loaded"] in lines
    assert ["decomposition", "acme/steerable", "Steerable", "pyramid."] in lines


def test_load_and_strict_tell_by_the_exit_code(
    shared_site: FakeSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared_site.plugin("acme", "import no_such_module")
    monkeypatch.setenv("DFM_STRICT_PLUGINS", "1")
    assert main(["plugins", "list"]) == 0
    capsys.readouterr()
    assert main(["plugins", "list", "--load"]) == 1
    captured = capsys.readouterr()
    assert "broken" in captured.out
    assert "error" not in captured.err
    monkeypatch.setenv("DFM_DISABLE_PLUGINS", "acme")
    assert main(["plugins", "list", "--load"]) == 0


def test_show_a_component(capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, "plugins", "show", "laplacian")
    assert "decomposition" in text
    assert any(line.split()[0] == "filter" and "area" in line for line in text.splitlines() if line)
    assert "reference" in text


def test_show_every_kind_that_has_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(out(capsys, "plugins", "show", "progressive", "--json"))
    assert [component["kind"] for component in shown["components"]] == ["stage_schedule", "timestep_sampler"]
    schedule = shown["components"][0]
    assert schedule["capabilities"] == {"progressive": {"later_stages": "hidden"}}
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
