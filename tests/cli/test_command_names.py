"""The names that users' scripts rely on: commands, flags, exit codes, what every command has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_tools import TINY, Dfm
from typer.main import get_command

from dfm_core.cli.app import app

CONFIGURATION = {
    *("--decomposition", "--stages", "--backbone", "--schedule", "--timestep-sampler", "--autoencoder", "--dataset"),
    *("--data", "--max-steps", "--batch-size", "--output", "--parallel", "--compile", "--seed", "--device"),
    *("--config", "--preset", "--set"),
}
FLAGS = {
    "train": CONFIGURATION | {"--resume", "--init-from", "--nproc", "--dry-run", "--json"},
    "sample": {
        *("--num", "--batch-size", "--label", "--cfg", "--steps", "--thresholds", "--solver", "--seed", "--previews"),
        *("--animate", "--output", "--json", "--schedule", "--cfg-interval"),
    },
    "eval": {
        *(
            "--samples",
            "--reference",
            "--metrics",
            "--set",
            "--num",
            "--reference-num",
            "--split",
            "--cfg",
            "--schedule",
        ),
        *(
            "--steps",
            "--thresholds",
            "--solver",
            "--seed",
            "--batch-size",
            "--output",
            "--cache",
            "--workers",
            "--device",
        ),
        *("--nproc", "--json"),
    },
    "compare": {"--output", "--seeds", "--only", "--device", "--dry-run", "--json"},
    "ablate": CONFIGURATION
    | {
        *("--sweep", "--together", "--reference", "--seeds", "--only", "--metrics", "--num", "--points", "--cfg"),
        *("--any-calls", "--dry-run", "--json"),
    },
    "encode": CONFIGURATION | {"--split", "--precision", "--flip", "--shard-size", "--nproc", "--json"},
    "decompose": CONFIGURATION | {"--json"},
    "schedule": CONFIGURATION | {"--steps", "--thresholds", "--sigmas", "--run", "--plot", "--json"},
    "bench": CONFIGURATION | {"--quick", "--json"},
    "export": set(),
    "runs": {"--json"},
    "plot": {"--keys", "--output", "--smooth", "--log", "--json"},
    "env": {"--json"},
    "plugins new": {"--kind", "--name", "--output", "--json"},
    "plugins check": {"--kind", "--set", "--json"},
    "plugins list": {"--load", "--json"},
    "plugins show": {"--json"},
    "config show": CONFIGURATION | {"--json"},
}
"""What must be there; there may be more."""
ARGUMENTS = {
    **{"sample": ["run"], "eval": ["run"], "encode": ["images"], "decompose": ["photo"], "export": ["run", "target"]},
    **{"runs": ["folder"], "plot": ["runs"], "compare": ["file"], "ablate": ["file"]},
    **{"plugins new": ["namespace"], "plugins check": ["name"], "plugins show": ["name"]},
}
EVERYWHERE = {"--debug", "--quiet", "--plugin", "--no-plugins"}
VALUELESS = {"--compile", "--previews", "--animate", "--dry-run", "--flip", "--log", "--json", "--debug", "--quiet"}
VALUELESS |= {"--no-plugins", "--load", "--together", "--any-calls", "--quick"}
REPEATED = {"--config", "--preset", "--set", "--plugin", "--sweep", "--only"}


def parameters(name: str) -> dict[str, object]:
    """Parameters of a command: its flags by their names, its arguments by theirs."""
    command = get_command(app)
    for part in name.split():
        command = command.commands[part]  # type: ignore[attr-defined]
    found: dict[str, object] = {}
    for parameter in command.params:
        found |= dict.fromkeys(parameter.opts, parameter)
    return found


@pytest.mark.parametrize("name", FLAGS)
def test_flags_of_every_command(name: str) -> None:
    found = parameters(name)
    assert (FLAGS[name] | EVERYWHERE) - set(found) == set()
    assert [flag for flag in found if not flag.startswith("-")] == ARGUMENTS.get(name, [])
    for flag in set(found) & VALUELESS:
        assert found[flag].is_flag, flag  # type: ignore[attr-defined]
    for flag in set(found) & REPEATED:
        assert found[flag].multiple, flag  # type: ignore[attr-defined]


def test_there_are_no_other_commands() -> None:
    top = get_command(app)
    names = {
        f"{name} {sub}" if sub else name
        for name, command in top.commands.items()  # type: ignore[attr-defined]
        for sub in getattr(command, "commands", {"": None})
    }
    assert names == set(FLAGS)


@pytest.mark.parametrize("name", FLAGS)
def test_help_of_every_command(name: str, dfm: Dfm) -> None:
    text = dfm(*name.split(), "--help").out
    for flag in FLAGS[name] | EVERYWHERE | {"--help"}:
        assert flag in text, flag
    assert "\x1b" not in text


def test_the_list_of_commands_is_whole(dfm: Dfm) -> None:
    lines = dfm("--help").lines
    for name in {name.split()[0] for name in FLAGS}:
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert not line.endswith("..."), f"the first line of the help of `{name}` is too long"


@pytest.mark.parametrize("command", [["--version"], ["-m", "dfm_core", "--version"]])
def test_version(command: list[str], dfm: Dfm) -> None:
    if command[0] == "-m":
        process = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        assert (process.stdout, process.stderr) == ("dfm 0.1.0\n", "")
    else:
        assert dfm(*command).out == "dfm 0.1.0\n"


def test_exit_codes(dfm: Dfm, tmp_path: Path) -> None:
    dfm("schedule", code=0)
    dfm("sample", tmp_path, code=1)
    dfm("train", "--data", tmp_path, code=1)
    dfm("decompose", tmp_path / "none.png", code=1)
    dfm("schedule", "--steps", "1,2,3", code=2)
    dfm("nothing", code=2)
    dfm("train", "--no-such-flag", code=2)
    dfm(code=2)


@pytest.mark.parametrize(
    "command",
    [
        ["schedule"],
        ["train", *TINY, "--dry-run"],
        ["plugins", "list"],
        ["plugins", "show", "dit"],
        ["config", "show", "--device", "cpu"],
    ],
    ids=" ".join,
)
def test_json_is_all_that_is_on_stdout(command: list[str], dfm: Dfm) -> None:
    assert dfm(*command, "--json").json


def test_no_colour_where_the_output_is_piped(dfm: Dfm, tmp_path: Path) -> None:
    for command in (["plugins", "list"], ["schedule"], ["config", "show"], ["sample", str(tmp_path)]):
        result = dfm(*command, code=None)
        assert "\x1b" not in result.out + result.err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this sort")
@pytest.mark.parametrize("no_color", [True, False])
def test_no_color_is_respected_on_a_terminal(no_color: bool) -> None:
    import pty

    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    environment |= {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if no_color else {})
    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "dfm_core", "plugins", "show", "nothing"]
    process = subprocess.run(command, stdout=inside, stderr=inside, env=environment, check=False)
    os.close(inside)
    text = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert process.returncode == 2
    assert "no component or plugin is called 'nothing'" in text
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", text)) != no_color
