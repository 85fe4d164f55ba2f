"""What commands print: results on stdout (tables, plain lines when piped, JSON), everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class OutputOptions:
    """How much is said. debug: tracebacks of errors. quiet: results, warnings and errors only."""

    debug: bool = False
    quiet: bool = False


_DEFAULT = OutputOptions()
_OPTIONS: ContextVar[OutputOptions] = ContextVar("output options", default=_DEFAULT)
_RESULTS: ContextVar[TextIO | None] = ContextVar("stream for results, None for stdout", default=None)
_STDOUT, _STDERR = 1, 2


@contextmanager
def output_session() -> Iterator[None]:
    """Begin with the default options, and forget at the end what was chosen in between."""
    token = _OPTIONS.set(_DEFAULT)
    try:
        yield
    finally:
        _OPTIONS.reset(token)


def choose_output(options: OutputOptions) -> None:
    """Set the options for the rest of the session."""
    _OPTIONS.set(options)


def output_options() -> OutputOptions:
    """The options that hold now."""
    return _OPTIONS.get()


def console(stderr: bool = False) -> Console:
    """Return a console on stdout or stderr as they are now; colourless when piped or with NO_COLOR."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def info(message: str) -> None:
    """Tell something on stderr, unless --quiet."""
    if not _OPTIONS.get().quiet:
        print(message, file=sys.stderr, flush=True)


def warning(message: str) -> None:
    """Warn on stderr."""
    _labelled("warning", "yellow", message)


def error(message: str, cause: BaseException | None = None) -> None:
    """Tell on stderr what failed; with --debug, the traceback of its cause first."""
    if cause is not None and _OPTIONS.get().debug:
        traceback.print_exception(cause)
    _labelled("error", "bold red", message)


def _labelled(label: str, style: str, message: str) -> None:
    indented = message.replace("\n", "\n" + " " * (len(label) + 2))
    if not sys.stderr.isatty():
        print(f"{label}: {indented}", file=sys.stderr, flush=True)
        return
    from rich.text import Text

    console(stderr=True).print(Text.assemble((f"{label}: ", style), indented))


@contextmanager
def results_apart() -> Iterator[None]:
    """Keep stdout for `print_json` alone: all else, of components and other processes too, goes to stderr."""
    with _stdout_apart(sys.stdout) as results, redirect_stdout(sys.stderr):
        token = _RESULTS.set(results)
        try:
            yield
        finally:
            _RESULTS.reset(token)


@contextmanager
def _stdout_apart(stream: TextIO) -> Iterator[TextIO]:
    """Point the descriptor of stdout, which new processes inherit, at stderr; yield a stream to what it was.

    A stream that is not stdout's own (in a test) is yielded as it is.
    """
    try:
        if stream.fileno() != _STDOUT:
            raise OSError
        stream.flush()
        saved = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
    except (OSError, AttributeError):
        yield stream
        return
    with open(saved, "w", encoding=stream.encoding, errors=stream.errors) as results:
        try:
            yield results
        finally:
            os.dup2(saved, _STDOUT)


def result_descriptor() -> int | None:
    """Descriptor for the stdout of a process that prints the result of this command; None for the one it inherits."""
    results = _RESULTS.get()
    try:
        return None if results is None else results.fileno()
    except OSError:
        return None


def print_json(values: Any) -> None:
    """Print plain data as JSON on stdout."""
    print(json.dumps(values, indent=2, default=str), file=_RESULTS.get(), flush=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns: a table on a terminal, aligned lines when piped; nothing is cut off."""
    cells = [[format_value(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich_table(title, columns, cells)
    else:
        _print_lines(title, columns, cells)


def _print_rich_table(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console().print(table, soft_wrap=False)


def _print_lines(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    lines = [[" ".join(cell.split()) for cell in row] for row in (columns, *cells)]
    widths = [max(len(row[index]) for row in lines) for index in range(len(columns))]
    if title:
        print(title)
    for row in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def format_value(value: object) -> str:
    """Write a value as it would stand in YAML on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {format_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(format_value, value)) + "]"
    return str(value)
