"""Tables, plain lines, values and bundles of options."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from dfm_core.cli.app import main
from dfm_core.cli.command import command
from dfm_core.cli.output import (
    error,
    format_value,
    info,
    output_options,
    output_session,
    print_json,
    print_table,
    results_apart,
    warning,
)

LONG = "a description that is much longer than any terminal is wide, " * 3


def test_piped_tables_are_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title", ["name", "value"], [("a", LONG), ("longer", "two\nlines")])
    assert capsys.readouterr().out.splitlines() == [
        "Title",
        "name    value",
        f"a       {LONG.strip()}",
        "longer  two lines",
    ]


def test_tables_on_a_terminal_leave_nothing_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    print_table("Title", ["name", "value"], [("[bold]", LONG)])
    text = capsys.readouterr().out
    assert "[bold]" in text
    assert " ".join(text.split()).count("longer than any") == 3
    assert "\x1b[3" not in text.replace("\x1b[3m", "")  # NO_COLOR: italics perhaps, colours never


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1e-4, "0.0001"),
        ([1, None], "[1, null]"),
        ({"a": (1, 2)}, "{a: [1, 2]}"),
        ("x", "x"),
    ],
)
def test_values_are_written_as_in_yaml(value: object, text: str) -> None:
    assert format_value(value) == text


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with output_session():
        info("so it is")
        warning("take care")
        error("first\nsecond", ValueError("hidden"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "so it is\nwarning: take care\nerror: first\n       second\n"


@dataclass(frozen=True)
class Pair:
    left: Annotated[int, typer.Option(help="Left.")] = 1
    right: Annotated[int | None, typer.Option(help="Right.")] = None


def test_a_bundle_becomes_one_option_a_field() -> None:
    app = typer.Typer()

    @app.command()
    @command
    def add(name: Annotated[str, typer.Argument()], pair: Pair, loud: bool = False) -> None:
        print(name, pair, loud, output_options().quiet)

    with output_session():
        result = CliRunner().invoke(app, ["x", "--right", "3", "--loud", "--quiet"])
    assert result.output == "x Pair(left=1, right=3) True True\n"


def test_threads_do_not_spin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    main(["--version"])
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    main(["--version"])
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_with_json_stdout_is_for_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    with results_apart():
        print("from a component")
        print_json({"a": 1})
    print("after")
    captured = capsys.readouterr()
    assert captured.out == '{\n  "a": 1\n}\nafter\n'
    assert captured.err == "from a component\n"


LOUD = """
import os, subprocess, sys
from dfm_core.cli.output import print_json, result_descriptor, results_apart

SAY = "from dfm_core.cli.output import print_json; print_json(2)"
with results_apart():
    os.write(1, b"from C ")
    subprocess.run(["echo", "from a worker"], check=True)
    print_json(1)
    subprocess.run([sys.executable, "-c", SAY], stdout=result_descriptor(), check=True)
print("after")
"""


def test_with_json_other_processes_write_elsewhere() -> None:
    done = subprocess.run([sys.executable, "-c", LOUD], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n2\nafter\n"
    assert done.stderr == "from C from a worker\n"
