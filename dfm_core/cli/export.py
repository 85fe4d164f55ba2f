"""`dfm export`: a run's averaged weights and what describes them, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfm_core.cli.command import command
from dfm_core.cli.flags import plugin_flags
from dfm_core.cli.output import info
from dfm_core.errors import UsageError


@command
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN")],
    target: Annotated[Path, typer.Argument(help="New folder for the model.", metavar="FOLDER")],
) -> None:
    """Write a run's model for others to load.

    The averaged weights go to model.safetensors, what describes them to model.json; the data is not needed to load it.
    """
    if target.exists():  # before torch is imported and the weights are read
        raise UsageError(f"{target} exists already; choose another folder")
    from dfm_core.model import load

    model = load(run, device="cpu")
    folder, again = model.export(target), plugin_flags(model.composition.config)
    print(f"wrote {folder}")
    info(f'load it with:  dfm sample {folder}{again}   or, in Python, dfm_core.load("{folder}")')
