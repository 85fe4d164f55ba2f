"""Commands are imported when they run, and what the list says of them is what they say of themselves."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from dfm_core.cli.app import COMMANDS, CONFIG, PLUGINS, app
from dfm_core.cli.lazy import LazyCommand

ROOT = Path(__file__).parents[2]
TABLES = {"": COMMANDS, "plugins ": PLUGINS, "config ": CONFIG}
EVERY = {prefix + name: entry for prefix, table in TABLES.items() for name, entry in table.items()}


@pytest.mark.parametrize("name", EVERY)
def test_the_list_says_what_the_command_says(name: str) -> None:
    entry: LazyCommand = EVERY[name]
    command = entry.load(name.split()[-1], None)
    assert command.name == name.split()[-1]
    assert inspect.cleandoc(command.help or "").splitlines()[0] == entry.summary


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], set()),
        (["plugins", "--help"], set()),
        (["plugins", "list"], {"plugins"}),
        (["runs", "--help"], {"runs"}),
    ],
    ids=str,
)
def test_a_command_imports_no_other(arguments: list[str], needed: set[str], tmp_path: Path) -> None:
    modules = {entry.address.partition(":")[0] for entry in EVERY.values()}
    code = f"""
import json, sys
from dfm_core.cli.app import main
code = main({arguments!r})
print(json.dumps(sorted({modules!r} & set(sys.modules))), "dfm_core.plugins" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True
    )
    imported, plugins = done.stdout.splitlines()[-1].rsplit(" ", 1)
    assert set(json.loads(imported)) == {f"dfm_core.cli.{module}" for module in needed}
    assert plugins == str(arguments[-1] != "--help")


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    with pytest.raises(SystemExit) as ended:
        get_command(app)(args=["plugins", "lsit"], prog_name="dfm")
    assert ended.value.code == 2


def test_the_measurement_runs() -> None:
    """Its numbers are not judged here: a busy machine would decide."""
    command = [sys.executable, str(ROOT / "benchmarks" / "startup.py"), "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    measured = json.loads(done.stdout)
    assert set(measured["ratios"]) == {"imports again", "dfm --help", "dfm plugins list"}
    assert measured["holds"] == (done.returncode == 0)
