"""`dfm plugins check`: the laws of a component's kind, and of a small model made with it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.output import info, output_options, print_json, print_table
from dfm_core.errors import ConfigError

if TYPE_CHECKING:
    from dfm_core.conformance import LawResult
    from dfm_core.conformance.subject import Subject


def _option(help_text: str, metavar: str) -> Any:
    return typer.Option(help=help_text, metavar=metavar, show_default=False)


@command
def check(
    name: Annotated[str, typer.Argument(help="A component (bare or namespace/name).", metavar="NAME")],
    kind: Annotated[str | None, _option("Its kind, where several have the name.", "KIND")] = None,
    set: Annotated[list[str] | None, _option("An option of it; may be repeated.", "OPTION=VALUE")] = None,
    json: Json = False,
) -> None:
    """Judge a component by the laws of its kind.

    Then, if it is part of one, a small model is made with it, trained for 30 steps and sampled. The exit code is 1 if a
    law is broken.
    """
    options = read_options(set or [])

    from dfm_core.conformance import check_component, check_composition
    from dfm_core.conformance.subject import subject_of

    subject = subject_of(name, kind, options)
    info(f"judging {subject.resolved} …")
    report = None if json else progress_of(time.perf_counter())
    laws = check_component(name, kind=subject.kind, options=options, report=report)
    if not json:
        print_results(f"Laws for the {subject.title} {name}", laws)
        print(flush=True)
    composition: Sequence[LawResult] = ()
    if subject.resolved.kind.part_of_run:
        info("making a small model with it …")
        composition = check_composition(name, kind=subject.kind, options=options, report=report)
    if json:
        print_json(as_data(subject, laws, composition))
    elif composition:
        print_results(f"Laws for a model with {name}", composition)
    broken = [result for result in (*laws, *composition) if result.state == "broken"]
    if output_options().debug:
        for result in broken:
            info(f"{result.law}: {result.traceback or result.message}")
    count = Counter(result.state for result in (*laws, *composition))
    info(", ".join(f"{count[state]} {state}" for state in ("held", "broken", "skipped") if count[state]))
    if broken:
        raise typer.Exit(1)


def progress_of(began: float) -> Callable[[LawResult], None]:
    """Return what says of each law how it was judged, and how long that took; `began`: of time.perf_counter."""
    last = began

    def report(result: LawResult) -> None:
        nonlocal last
        now = time.perf_counter()
        info(f"  {result.law}: {result.state} ({now - last:.1f} s)")
        last = now

    return report


def read_options(settings: Sequence[str]) -> dict[str, object]:
    """Read the OPTION=VALUE of `--set`, values as YAML. Raises ConfigError for anything else."""
    from dfm_core.config.yaml_text import parse_yaml

    options: dict[str, object] = {}
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not (equals and option.isidentifier()):
            raise ConfigError(f"--set {setting!r}: expected OPTION=VALUE with the name of an option of the component")
        options[option] = parse_yaml(text, f"--set {setting!r}")
    return options


def as_data(subject: Subject, laws: Sequence[LawResult], composition: Sequence[LawResult]) -> dict[str, Any]:
    """Everything as plain data."""
    return {
        "name": subject.resolved.name,
        "kind": subject.kind,
        "distribution": subject.resolved.plugin.distribution,
        "version": subject.resolved.plugin.version,
        "options": subject.options.model_dump(mode="json"),
        "holds": all(result.state != "broken" for result in (*laws, *composition)),
        "laws": [result.as_dict() for result in laws],
        "composition": [result.as_dict() for result in composition],
    }


def print_results(title: str, results: Sequence[LawResult]) -> None:
    """Print a table: law, state, the worst number and its bound, what to do (below it where that would be narrow)."""
    columns = ["law", "state", "measured", "bound", "cases", "what to do"]
    rows = [row_of(result) for result in results]
    if not sys.stdout.isatty():
        print_table(title, columns, rows)
        return
    print_table(title, columns[:-1], [row[:-1] for row in rows])
    for result in results:
        if result.message:
            print(f"  {result.law}: {result.message}")


def row_of(result: LawResult) -> list[str]:
    """A result as cells."""
    number = result.value is not None and result.bound is not None
    measured = f"{result.value:.3g}" if number else ""
    bound = f"{'≥' if result.at_least else '≤'} {result.bound:.3g}" if number else ""
    return [result.law, result.state, measured, bound, str(result.cases or ""), result.message]
