"""--plugin, --no-plugins and DFM_STRICT_PLUGINS: on every command, for that command only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_tools import TINY, Dfm, Rejected, write_picture
from fake_plugins import STEERABLE, FakeSite
from typer.main import get_command

from dfm_core.cli.app import app
from dfm_core.plugins.registry import default_registry

AVERAGE = """
from torch.nn.functional import interpolate

from dfm_core.plugins import DecompositionSpec, hookimpl
from dfm_core.residual_pyramid import ResidualPyramid

DFM_PLUGIN_API = 1


class Average(ResidualPyramid):
    def down(self, x, size):
        return interpolate(x, size=size, mode="area")

    def up(self, x, size):
        return interpolate(x, size=size, mode="nearest")


@hookimpl
def dfm_decompositions():
    return [DecompositionSpec("average", "Means of blocks.", f"{__name__}:Average")]
"""
DATA = """
from dfm_core.interfaces.dataset import Dataset
from dfm_core.plugins import DatasetSpec, hookimpl

DFM_PLUGIN_API = 1


class Grey(Dataset):
    ...


@hookimpl
def dfm_datasets():
    return [DatasetSpec("grey", "Plain greys.", f"{__name__}:Grey")]
"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DFM_DISABLE_PLUGINS", "DFM_STRICT_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSite:
    folder = tmp_path / "site"
    folder.mkdir()
    return FakeSite(folder, monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "mine.py", AVERAGE)


def write(path: Path, source: str) -> Path:
    path.write_text(source)
    return path


def commands(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*names, name))
        else:
            yield " ".join((*names, name)), command


@pytest.mark.parametrize(("name", "command"), list(commands(get_command(app))))
def test_every_command_has_the_flags(name: str, command: Any) -> None:
    flags = {option: parameter for parameter in command.params for option in parameter.opts}
    assert flags["--plugin"].multiple
    assert flags["--no-plugins"].is_flag


# One file, in every command that uses components.


def test_a_run_with_a_file(file: Path, tmp_path: Path, dfm: Dfm, rejected: Rejected) -> None:
    run, model, plugin = tmp_path / "run", tmp_path / "model", ["--plugin", file]
    chosen = [*plugin, "--decomposition", "mine/average", "--max-steps", "2", "--output", run]
    trained = dfm("train", *TINY, *chosen)
    assert f"sample with:  dfm sample {run} --plugin {file} --num" in trained.out

    again = f"decomposition 'mine/average' was made with the plugin file {file} (sha256 "
    for command in (
        ["sample", run],
        ["train", "--resume", run],
        ["export", run, model],
        ["config", "show", "--device", "cpu", "--config", run / "config.yaml"],
    ):
        message = rejected(*command)
        assert again in message
        assert f"add `--plugin {file}`" in message
    assert not model.exists()

    assert "warning" not in dfm("sample", run, *plugin, "--num", 1, "--steps", "1,1").err
    assert f"dfm sample {model} --plugin {file}" in dfm("export", run, model, *plugin).err
    assert again in rejected("sample", model)
    assert dfm("sample", model, *plugin, "--num", 1, "--steps", "1,1").out


def test_a_run_with_a_file_that_has_changed(file: Path, tmp_path: Path, dfm: Dfm) -> None:
    run, plugin = tmp_path / "run", ["--plugin", file]
    dfm("train", *TINY, *plugin, "--decomposition", "mine/average", "--max-steps", "2", "--output", run)
    write(file, AVERAGE + "\n# changed")
    changed = f"warning: the plugin file {file} is not the one that this was made with: it was sha256 "
    for command in (
        ["sample", run, "--num", 1, "--steps", "1,1"],
        ["config", "show", "--device", "cpu", "--config", run / "config.yaml"],
        ["train", "--resume", run, "--max-steps", "3"],
    ):
        assert dfm(*command, *plugin).err.count(changed) == 1
    # From here on the run is that of the new file.
    assert "warning" not in dfm("train", "--resume", run, "--max-steps", "4", *plugin).err
    assert "warning" not in dfm("sample", run, "--num", 1, "--steps", "1,1", *plugin).err


def test_a_file_in_other_commands(file: Path, tmp_path: Path, dfm: Dfm) -> None:
    chosen = ["--plugin", file, "--decomposition", "mine/average", "--device", "cpu"]
    write_picture(tmp_path / "photo.png", 0)
    picture = tmp_path / "sheet.png"
    dfm("decompose", tmp_path / "photo.png", *chosen, "--stages", "8,16", "--output", picture)
    assert picture.exists()
    assert dfm("train", *chosen, "--dry-run", "--json").json["stages"]
    assert dfm("schedule", *chosen, "--json").json["t"]
    assert dfm("config", "show", *chosen, "--json").json["config"]["plugin_files"]["mine"]["path"] == str(file)
    assert any(
        text.startswith("mine: mine.py (sha256 ") for text in dfm("env", "--plugin", file, "--json").json["plugins"]
    )


def test_several_files(file: Path, tmp_path: Path, dfm: Dfm) -> None:
    other = write(tmp_path / "other.py", AVERAGE)
    plugins = dfm("plugins", "list", "--plugin", file, "--plugin", other, "--json").json
    shown = {plugin["plugin"]: plugin for plugin in plugins}
    assert [shown[name]["state"] for name in ("mine", "other")] == ["loaded", "loaded"]
    assert shown["other"]["components"]["decomposition"] == [{"name": "other/average", "summary": "Means of blocks."}]


def test_workers_with_a_data_set_from_a_file(tmp_path: Path, rejected: Rejected) -> None:
    greys = write(tmp_path / "greys.py", DATA)
    message = rejected("train", "--plugin", greys, "--dataset", "greys/grey", "--device", "cpu", "--set", "workers=2")
    assert "workers: expected 0, got 2" in message
    assert "dfm plugins new greys --kind dataset" in message


REFUSED = {
    "none.py": (None, "cannot be read"),
    "photo.jpg": ("", "expected a Python file"),
    "Mine.py": (AVERAGE, "expected lower-case letters"),
    "builtin.py": (AVERAGE, "is taken"),
    "broken.py": ("import no_such_module", "is broken: ModuleNotFoundError: No module named 'no_such_module'"),
    "empty.py": ("DFM_PLUGIN_API = 1", "it lists nothing"),
    "newer.py": ("DFM_PLUGIN_API = 2", "is incompatible: it was written for plugin API 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_used(name: str, tmp_path: Path, rejected: Rejected) -> None:
    source, reason = REFUSED[name]
    if source is not None:
        write(tmp_path / name, source)
    message = rejected("schedule", "--plugin", tmp_path / name)
    assert name in message
    assert reason in message


def test_a_broken_file_is_shown(tmp_path: Path, dfm: Dfm) -> None:
    file = write(tmp_path / "mine.py", "import no_such_module")
    assert "Traceback" not in dfm("schedule", "--plugin", file, code=2).err
    debugged = dfm("schedule", "--plugin", file, "--debug", code=2).err
    assert f'File "{file}", line 1' in debugged
    shown = dfm("plugins", "show", "mine", "--plugin", file).out
    assert "Traceback" in shown
    assert f'File "{file}", line 1' in shown
    assert "broken" in dfm("plugins", "list", "--plugin", file).out
    assert any("broken" in text for text in dfm("env", "--plugin", file, "--json").json["plugins"])


def test_nothing_leaks_into_the_next_command(file: Path, dfm: Dfm, rejected: Rejected) -> None:
    dfm("plugins", "show", "mine/average", "--plugin", file)
    assert "no plugin 'mine' is installed" in rejected("plugins", "show", "mine/average")
    assert "no plugin 'mine' is installed" in rejected("schedule", "--decomposition", "mine/average")
    dfm("schedule", "--no-plugins")
    assert default_registry().plugin("mine") is None
    rejected("schedule", "--plugin", file, "--steps", "x")
    assert default_registry().plugin("mine") is None


def test_what_is_installed_in_between_is_found(site: FakeSite, dfm: Dfm, rejected: Rejected) -> None:
    rejected("plugins", "show", "acme/steerable")
    site.plugin("acme", STEERABLE)
    assert dfm("plugins", "show", "acme/steerable").out


@pytest.mark.parametrize("command", [["-m", "dfm_core"], ["-P", "-m", "dfm_core"]])
def test_nothing_is_loaded_from_the_working_directory(command: list[str], tmp_path: Path) -> None:
    here = tmp_path / "here"
    metadata = here / "dfm_evil-1.0.dist-info"
    metadata.mkdir(parents=True)
    write(metadata / "METADATA", "Metadata-Version: 2.1\nName: dfm-evil\nVersion: 1.0\n")
    write(metadata / "entry_points.txt", "[dfm_core]\nevil = evil\n")
    for name in ("evil", "yaml", "typer"):
        write(here / f"{name}.py", "raise SystemExit('loaded')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    listed = [sys.executable, *command, "plugins", "list", "--load"]
    done = subprocess.run(listed, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "evil" not in done.stdout


# Without installed plugins, and with all of them.


def test_no_plugins(site: FakeSite, file: Path, dfm: Dfm, rejected: Rejected) -> None:
    site.plugin("acme", "raise RuntimeError('imported')")
    message = rejected("schedule", "--no-plugins", "--decomposition", "acme/steerable")
    assert "plugin 'acme' of dfm-acme 1.2 is disabled by --no-plugins" in message
    states = {plugin["plugin"]: plugin["state"] for plugin in dfm("plugins", "list", "--no-plugins", "--json").json}
    assert (states["builtin"], states["acme"]) == ("loaded", "disabled")
    dfm("schedule", "--no-plugins")
    dfm("plugins", "show", "mine/average", "--no-plugins", "--plugin", file)


def faulty_site(site: FakeSite) -> None:
    site.plugin("fine", STEERABLE)
    site.plugin("acme", "import no_such_module")
    site.module("old_plugin", "DFM_PLUGIN_API = 0", preamble="")
    site.distribution("dfm-old", "0.1", "old = old_plugin")
    for number in (1, 2):
        site.distribution(f"dfm-rival-{number}", f"{number}.0", "rival = fine_plugin")


def test_strict_names_each_plugin_that_cannot_be_used(
    site: FakeSite, dfm: Dfm, rejected: Rejected, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_site(site)
    dfm("schedule")
    monkeypatch.setenv("DFM_STRICT_PLUGINS", "1")
    for command in (["schedule"], ["sample", "nowhere"], ["config", "show", "--device", "cpu"], ["export", "a", "b"]):
        message = rejected(*command)
        assert message.startswith("DFM_STRICT_PLUGINS asks that every installed plugin can be used")
        assert "plugin 'acme' of dfm-acme 1.2 is broken: ModuleNotFoundError" in message
        assert "plugin 'old' of dfm-old 0.1 is incompatible" in message
        assert message.count("namespace 'rival' is claimed by dfm-rival-") == 1
        assert "fine" not in message.replace("fine_plugin", "")
    monkeypatch.setenv("DFM_DISABLE_PLUGINS", "acme,old,rival")
    dfm("schedule")
    monkeypatch.delenv("DFM_DISABLE_PLUGINS")
    dfm("schedule", "--no-plugins")
    monkeypatch.setenv("DFM_STRICT_PLUGINS", "0")
    dfm("schedule")


def test_one_can_look_while_strict(site: FakeSite, dfm: Dfm, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty_site(site)
    monkeypatch.setenv("DFM_STRICT_PLUGINS", "1")
    states = {plugin["plugin"]: plugin["state"] for plugin in dfm("plugins", "list", "--json").json}
    assert states["acme"] == "not loaded"
    assert "Traceback" in dfm("plugins", "show", "acme").out
    told = dfm("env", "--json").json
    assert told["DFM_STRICT_PLUGINS"] == "1"
    assert "acme: dfm-acme 1.2 (not loaded)" in told["plugins"]


def test_strict_outside_of_commands(site: FakeSite) -> None:
    faulty_site(site)
    code = "import dfm_core\nfrom dfm_core.config.resolve import resolve_config\nresolve_config()"
    environment = {**os.environ, "PYTHONPATH": str(site.folder), "DFM_STRICT_PLUGINS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "PluginError: DFM_STRICT_PLUGINS asks" in done.stderr


def test_a_component_that_prints_does_not_spoil_json(tmp_path: Path, dfm: Dfm) -> None:
    file = write(tmp_path / "mine.py", AVERAGE.replace("        return", '        print("LOUD")\n        return'))
    flags, run = ["--plugin", file, "--json"], tmp_path / "run"
    small = ["--decomposition", "mine/average", "--max-steps", "1"]
    trained = dfm("train", *TINY, *flags, *small, "--output", run)
    assert trained.json["step"] == 1
    assert "LOUD" in trained.err
    assert dfm("sample", run, *flags, "--num", "1", "--steps", "1,1").json["images"] == 1
