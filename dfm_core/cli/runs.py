"""`dfm runs`: every run in a folder, whether it still trains, and how far it is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.output import info, print_json, print_table, warning

if TYPE_CHECKING:
    from dfm_core.runs.listing import RunSummary

DEFAULT_FOLDER = Path("runs")
COLUMNS = ("run", "state", "step", "loss", "images/s", "age", "decomposition", "stages")


@command
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of runs, or one run.", metavar="FOLDER")] = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List runs, the last active first.

    States: training, finished (all steps done), interrupted (stopped or killed), failed (ended by an error).
    """
    from dfm_core.runs.listing import list_runs

    # Before the first run there is no folder of runs yet, and that is no mistake.
    found = list_runs(folder) if folder != DEFAULT_FOLDER or folder.exists() else []
    if json:
        print_json([asdict(summary) for summary in found])
        return
    if not found:
        info(f"no runs in {folder}; `dfm train` makes one")
        return
    print_table("", COLUMNS, [run_row(summary) for summary in found])
    for summary in found:
        if summary.error:
            warning(f"{summary.path} failed: {summary.error}")


def run_row(summary: RunSummary) -> tuple[str, ...]:
    """One line of the table; a dash for what is not known."""
    steps = f"{summary.step}/{summary.max_steps or '-'}"
    loss, speed = (f"{x:.4g}" if x is not None else "-" for x in (summary.loss, summary.images_per_second))
    described = (summary.decomposition or "-", summary.stages or "-")
    return (summary.path, summary.state, steps, loss, speed, write_age(summary.age), *described)


def write_age(seconds: float) -> str:
    """Write a time that has passed in the largest unit that fits: 90 -> "90 s", 7200 -> "2 h"."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
