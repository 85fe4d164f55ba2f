"""`dfm schedule`: the timestep of every stage at every step, printed and plotted."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.flags import ConfigFlags, flag_of, resolve_flags, warn_of_thresholds
from dfm_core.cli.numbers import read_counts, read_numbers
from dfm_core.cli.output import info, print_json, print_table
from dfm_core.config.sizes import write_stages
from dfm_core.errors import UsageError

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.interfaces.stage_schedule import ScheduleGrid

GUESS = 0.5
"""A sigma other than 1, to see whether it matters."""


@command
def schedule(
    flags: ConfigFlags,
    steps: Annotated[str | None, typer.Option(help="Steps of each stage: 30,10,10.", metavar="STEPS")] = None,
    thresholds: Annotated[
        str | None, typer.Option(help="t at which the next stage starts: 0.9,0.8.", metavar="THRESHOLDS")
    ] = None,
    sigmas: Annotated[
        str | None,
        typer.Option(
            help="Root mean square of each stage, for shift: auto.",
            metavar="SIGMAS",
            show_default="1 each; with --run, the run's",
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Take the schedule of this run, with its stages' sigmas.", metavar="RUN")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw them (figure 2a of the paper).", metavar="PICTURE")
    ] = None,
    json: Json = False,
) -> None:
    """Show the timesteps of a schedule.

    One line a step, one column a stage: t is 0 for noise and 1 for data; a dash where the stage is not visible yet.
    """
    config = resolve_flags(flags).config if run is None else config_of_run(run, flags)
    from dfm_core.interfaces.stage_schedule import StageScheduleFacts
    from dfm_core.pictures.figures import check_picture_path, save_figure
    from dfm_core.pictures.plots import plot_schedule
    from dfm_core.plugins.registry import default_registry

    if plot is not None:
        check_picture_path(plot)
    choice, registry = config.component("stage_schedule"), default_registry()
    limits = read_numbers(thresholds, "--thresholds")
    changes = {"steps": read_counts(steps, "--steps"), "thresholds": limits}
    given = {name: value for name, value in changes.items() if value is not None}
    if limits is not None:
        warn_of_thresholds("--thresholds", len(config.stages))
    options = registry.override_options("stage_schedule", choice.name, choice.options, given)

    def grid_for(sigmas: tuple[float, ...]) -> ScheduleGrid:
        facts = StageScheduleFacts(len(config.stages), sigmas)
        return cast("ScheduleGrid", registry.create("stage_schedule", choice.name, options, facts).grid())

    measured = sigmas_of_run(run, config) if run is not None and sigmas is None else None
    grid = grid_for(measured or read_sigmas(sigmas, len(config.stages)))
    if run is None and sigmas is None and not config.flow.standardize:
        note_guessed_sigmas(grid, grid_for((GUESS,) * len(config.stages)))
    if plot is not None:
        save_figure(plot_schedule(grid, f"{choice.name}, stages {write_stages(config.stages)}"), plot)
    if json:
        print_json({"t": grid.t.tolist(), "visible": grid.visible.tolist(), "plot": str(plot) if plot else None})
        return
    print_table("", ["step", *(f"stage {index + 1}" for index in range(grid.num_stages))], schedule_rows(grid))
    if plot is not None:
        print(f"wrote {plot}")


def config_of_run(run: Path, flags: ConfigFlags) -> RunConfig:
    """Configuration of a run, with another schedule or options of it. Raises UsageError for flags that change more."""
    from dfm_core.training.run_directory import RunDirectory

    given = [field.name for field in dataclasses.fields(flags) if getattr(flags, field.name) is not None]
    others = [flag_of(name) for name in given if name not in ("schedule", "set")]
    if others:
        raise UsageError(f"--run: the run has its own configuration; leave out {', '.join(others)}")
    return resolve_flags(flags, RunDirectory.open(run).config).config


def sigmas_of_run(run: Path, config: RunConfig) -> tuple[float, ...]:
    """Root mean square of each stage as the run has measured it. Raises CheckpointError without a checkpoint."""
    from dfm_core.assembly import Assembler
    from dfm_core.composition import data_from_snapshot
    from dfm_core.plugins.registry import default_registry
    from dfm_core.training.checkpoint import load_newest

    _, statistics = data_from_snapshot(load_newest(run)[0].state)
    return statistics.sigmas(Assembler(config, default_registry()).scales(statistics))


def note_guessed_sigmas(grid: ScheduleGrid, other: ScheduleGrid) -> None:
    """Say that no data was measured, if the grid would be another with other sigmas."""
    if not bool((grid.t == other.t).all()):
        info(
            "note: the root mean square (sigma) of each stage, from which this schedule spaces its steps, is taken as "
            "1; a run measures its data: --run RUN shows its schedule, --sigmas takes numbers"
        )


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
