"""`dfm plot`: the curves of runs, drawn into one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.output import info, print_json
from dfm_core.errors import UsageError

NAME = "curves.png"


@command
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUN")],
    keys: Annotated[
        str | None,
        typer.Option(
            help="What to draw, separated by commas: loss,parts/stage_1,validation; a first part stands for all that "
            "begin with it.",
            metavar="KEYS",
            show_default="the losses, gradient norm, images/s",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Picture to write.", metavar="PICTURE", show_default="curves.png, in the run's folder"),
    ] = None,
    smooth: Annotated[int, typer.Option(help="Mean over N lines of the log.", metavar="N", min=1)] = 1,
    log: Annotated[bool, typer.Option("--log", help="Logarithmic axes for losses and gradient norms.")] = False,
    json: Json = False,
) -> None:
    """Draw the curves of one run, or of several in one picture.

    A panel a curve, a colour a run; below, each stage's loss by t. Of several runs, what they share. Without --output
    the picture of several runs is curves.png in the working directory.
    """
    path = output or (runs[0] / NAME if len(runs) == 1 else Path(NAME))
    from dfm_core.runs.curves import read_runs, select

    curves = read_runs(runs)
    selection = select(curves, read_keys(keys))
    from dfm_core.pictures.curve_plots import plot_curves
    from dfm_core.pictures.figures import check_picture_path, save_figure

    check_picture_path(path)
    save_figure(plot_curves(curves, selection.keys, smooth, log), path)
    for key, lacking in selection.left_out.items():
        have = "has" if len(lacking) == 1 else "have"
        info(f"{'' if keys else 'left out: '}{key}, which {', '.join(lacking)} {have} not")
    if json:
        names = [run.name for run in curves]
        print_json({"picture": str(path), "runs": names, "keys": selection.keys, "left_out": selection.left_out})
    else:
        print(f"wrote {path}")


def read_keys(text: str | None) -> list[str] | None:
    """Read "loss,parts"; None stays. Raises UsageError for no name at all."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--keys: expected names separated by commas, like loss,parts; got none")
    return names
