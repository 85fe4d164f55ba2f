"""`dfm schedule`: the timestep of every stage at every step, printed and plotted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.flags import ConfigFlags, resolve_flags
from dfm_core.cli.output import print_json, print_table
from dfm_core.cli.sample import numbers
from dfm_core.errors import UsageError


@command
def schedule(
    flags: ConfigFlags,
    steps: Annotated[str | None, typer.Option(help="Steps of each stage: 30,10,10.", metavar="STEPS")] = None,
    thresholds: Annotated[str | None, typer.Option(help="t at which the next stage starts: 0.9,0.8.", metavar="THRESHOLDS")] = None,
    sigmas: Annotated[str | None, typer.Option(help="Root mean square of each stage, for shift: auto.", metavar="SIGMAS", show_default="1 each")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw them (figure 2a of the paper).", metavar="PNG")] = None,
    json: Json = False,
) -> None:
    """Print the timesteps of a stage schedule: 0 is noise, 1 is data, a dash where a stage is not visible."""
    config = resolve_flags(flags).config
    from dfm_core.interfaces.stage_schedule import StageScheduleFacts
    from dfm_core.plots import plot_schedule, save_figure
    from dfm_core.plugins.registry import default_registry

    count = len(config.stages)
    spread = numbers(sigmas, float, "sigmas") or [1.0] * count
    if len(spread) != count or min(spread) <= 0:
        raise UsageError(f"--sigmas: expected {count} positive numbers, one a stage, got {sigmas}")
    choice, registry = config.component("stage_schedule"), default_registry()
    changes = {"steps": numbers(steps, int, "steps"), "thresholds": numbers(thresholds, float, "thresholds")}
    options = registry.override_options("stage_schedule", choice.name, choice.options, {k: v for k, v in changes.items() if v})
    grid = registry.create("stage_schedule", choice.name, options, StageScheduleFacts(count, tuple(spread))).grid()
    if plot is not None:
        save_figure(plot_schedule(grid, thresholds=changes["thresholds"] or ()), plot)
    if json:
        print_json({"t": grid.t.tolist(), "visible": grid.visible.tolist(), "plot": str(plot) if plot else None})
        return
    visible = [[True] + [False] * (count - 1), *grid.visible.tolist()]
    rows = [
        (step, *(f"{t:.4f}" if t > 0 or seen else "-" for t, seen in zip(row, visible[step], strict=True)))
        for step, row in enumerate(grid.t.tolist())
    ]
    print_table("", ["step", *(f"stage {index + 1}" for index in range(count))], rows)
    if plot is not None:
        print(f"wrote {plot}")
