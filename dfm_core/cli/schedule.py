"""`dfm schedule`: the timestep of every stage at every step, printed and plotted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.flags import ConfigFlags, resolve_flags
from dfm_core.cli.numbers import read_counts, read_numbers
from dfm_core.cli.output import print_json, print_table
from dfm_core.config.sizes import write_stages
from dfm_core.errors import UsageError

if TYPE_CHECKING:
    from dfm_core.interfaces.stage_schedule import ScheduleGrid


@command
def schedule(
    flags: ConfigFlags,
    steps: Annotated[str | None, typer.Option(help="Steps of each stage: 30,10,10.", metavar="STEPS")] = None,
    thresholds: Annotated[
        str | None, typer.Option(help="t at which the next stage starts: 0.9,0.8.", metavar="THRESHOLDS")
    ] = None,
    sigmas: Annotated[
        str | None,
        typer.Option(help="Root mean square of each stage, for shift: auto.", metavar="SIGMAS", show_default="1 each"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw them (figure 2a of the paper).", metavar="PICTURE")
    ] = None,
    json: Json = False,
) -> None:
    """Show the timesteps of a schedule.

    One line a step, one column a stage: t is 0 for noise and 1 for data; a dash where the stage is not visible yet.
    """
    config = resolve_flags(flags).config
    from dfm_core.figures import check_picture_path, save_figure
    from dfm_core.interfaces.stage_schedule import StageScheduleFacts
    from dfm_core.plots import plot_schedule
    from dfm_core.plugins.registry import default_registry

    if plot is not None:
        check_picture_path(plot)
    choice, registry = config.component("stage_schedule"), default_registry()
    changes = {"steps": read_counts(steps, "--steps"), "thresholds": read_numbers(thresholds, "--thresholds")}
    given = {name: value for name, value in changes.items() if value is not None}
    options = registry.override_options("stage_schedule", choice.name, choice.options, given)
    facts = StageScheduleFacts(len(config.stages), read_sigmas(sigmas, len(config.stages)))
    grid = registry.create("stage_schedule", choice.name, options, facts).grid()
    if plot is not None:
        save_figure(plot_schedule(grid, f"{choice.name}, stages {write_stages(config.stages)}"), plot)
    if json:
        print_json({"t": grid.t.tolist(), "visible": grid.visible.tolist(), "plot": str(plot) if plot else None})
        return
    print_table("", ["step", *(f"stage {index + 1}" for index in range(grid.num_stages))], schedule_rows(grid))
    if plot is not None:
        print(f"wrote {plot}")


def read_sigmas(text: str | None, num_stages: int) -> tuple[float, ...]:
    """Read the root mean square of every stage, 1 each without. Raises UsageError."""
    sigmas = read_numbers(text, "--sigmas") or [1.0] * num_stages
    if len(sigmas) != num_stages or not all(math.isfinite(sigma) and sigma > 0 for sigma in sigmas):
        raise UsageError(f"--sigmas: expected {num_stages} positive numbers, one a stage, got {text!r}")
    return tuple(sigmas)


def schedule_rows(grid: ScheduleGrid) -> list[tuple[object, ...]]:
    """One row a step: its number and the t of each stage, a dash before the stage appears."""
    visible = [grid.visible[0].tolist(), *grid.visible.tolist()]
    return [
        (step, *(f"{t:.4f}" if t > 0 or seen else "-" for t, seen in zip(row, visible[step], strict=True)))
        for step, row in enumerate(grid.t.tolist())
    ]
