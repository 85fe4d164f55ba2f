"""`dfm`: the commands, and what happens when one fails. Imports no torch."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Annotated, Literal, NoReturn

import typer
from typer.main import get_command

from dfm_core.cli.interrupt import INTERRUPTED, say_interrupted, termination_as_interrupt
from dfm_core.cli.launch import (
    end_without_finalization,
    hand_to_launcher,
    is_first_process,
    number_of_processes,
    remember_arguments,
)
from dfm_core.cli.lazy import LazyCommand, lazy_group
from dfm_core.cli.output import error, output_options, output_session, warning
from dfm_core.cli.threads import limit_threads
from dfm_core.errors import DFMError

COMMANDS = {
    "train": LazyCommand("dfm_core.cli.train:train", "Train a model."),
    "sample": LazyCommand("dfm_core.cli.sample:sample", "Generate images or clips."),
    "compare": LazyCommand("dfm_core.cli.compare:compare", "Train variants for the same compute, and compare them."),
    "ablate": LazyCommand("dfm_core.cli.ablate:ablate", "Compare values of some keys of a configuration."),
    "encode": LazyCommand("dfm_core.cli.encode:encode", "Store images or clips as latents."),
    "decompose": LazyCommand("dfm_core.cli.decompose:decompose", "Draw the stages of a picture or a clip."),
    "schedule": LazyCommand("dfm_core.cli.schedule:schedule", "Show the timesteps of a schedule."),
    "runs": LazyCommand("dfm_core.cli.runs:runs", "List runs, the last active first."),
    "plot": LazyCommand("dfm_core.cli.plot:plot", "Draw the curves of one run, or of several in one picture."),
    "bench": LazyCommand("dfm_core.cli.bench:bench", "Measure training on this machine."),
    "export": LazyCommand("dfm_core.cli.export:export", "Write a run's model for others to load."),
    "env": LazyCommand("dfm_core.cli.env:env", "Print versions and devices, for bug reports."),
    "eval": LazyCommand("dfm_core.cli.eval:evaluate", "Measure how good samples are."),
}
PLUGINS = {
    "new": LazyCommand("dfm_core.cli.plugins_new:new", "Begin a package of your own."),
    "check": LazyCommand("dfm_core.cli.plugins_check:check", "Judge a component by the laws of its kind."),
    "list": LazyCommand("dfm_core.cli.plugins:list_plugins", "List plugins and components."),
    "show": LazyCommand("dfm_core.cli.plugins:show", "Show one component or plugin."),
}
CONFIG = {"show": LazyCommand("dfm_core.cli.config:show", "Show every value and where it came from.")}

# Boxes are for people: what goes into a file or another program stays plain.
_MARKUP: Literal["rich"] | None = "rich" if sys.stdout.isatty() and sys.stderr.isatty() else None

app = typer.Typer(
    name="dfm",
    cls=lazy_group(COMMANDS),
    help="Decomposable Flow Matching: generate images coarse to fine, with any decomposition.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=_MARKUP,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from dfm_core.plugins.discovery import installed_version

        print(f"dfm {installed_version()}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


for _name, _help, _commands in (
    ("plugins", "Look at plugins and components.", PLUGINS),
    ("config", "Look at configurations.", CONFIG),
):
    app.add_typer(typer.Typer(cls=lazy_group(_commands), help=_help, no_args_is_help=True), name=_name)


def run() -> NoReturn:
    """Run `dfm` as a process of its own."""
    exit_code = 1
    if number_of_processes() > 1:
        end_without_finalization(lambda: exit_code)
    exit_code = main()
    sys.exit(exit_code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dfm` and return its exit code: 0, 1 (failed), 2 (usage), 130 (interrupted)."""
    # A busy neighbour slows torch's spinning threads tenfold; read when OpenMP starts.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    limit_threads()
    _tolerate_narrow_encodings()
    # One of several processes may wait for the others, where no handler is heard: it ends as the system ends it.
    alone = number_of_processes() == 1
    with output_session(), _warnings_of_the_library(), termination_as_interrupt() if alone else nullcontext():
        try:
            remember_arguments(sys.argv[1:] if arguments is None else arguments)
            get_command(app)(args=arguments, prog_name="dfm")
        except SystemExit as done:
            return _exit_code(done)
        except DFMError as failure:
            return _fail(str(failure), failure, failure.exit_code)
        except KeyboardInterrupt:
            say_interrupted()
            return INTERRUPTED
        except Exception as failure:
            return _fail(_unforeseen(failure), failure, 1)
    return 0


class _Warner(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warning(record.getMessage())


@contextmanager
def _warnings_of_the_library() -> Iterator[None]:
    """What the Python API logs is said as a command says it."""
    logger, handler = logging.getLogger("dfm"), _Warner(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _fail(message: str, failure: Exception, exit_code: int) -> int:
    if not hand_to_launcher(message, failure, exit_code):
        process = "" if is_first_process() else f"process {os.environ['RANK']}: "
        error(process + message, failure)
    elif output_options().debug:
        traceback.print_exception(failure)
    return exit_code


def _tolerate_narrow_encodings() -> None:
    """A terminal that lacks a letter shows its code; it does not stop the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _exit_code(done: SystemExit) -> int:
    if done.code is None or isinstance(done.code, int):
        return done.code or 0
    error(str(done.code))
    return 1


def _unforeseen(failure: Exception) -> str:
    """Sentence for an error that is no DFMError: the machine's or ours."""
    if isinstance(failure, OSError):
        return str(failure)
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return f"out of memory: {failure}. A smaller --batch-size or more training.accumulation needs less"
    name = type(failure).__name__
    return f"{name}: {failure}\nthis is a bug in dfm or in a plugin: --debug shows where, `dfm env` helps a report"
