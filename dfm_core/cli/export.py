"""`dfm export`: a run's averaged weights and what describes them, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfm_core.cli.command import command


@command
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN")],
    target: Annotated[Path, typer.Argument(help="New folder for the model.", metavar="FOLDER")],
) -> None:
    """Write the averaged weights (model.safetensors) and their description (model.json) for others to load."""
    from dfm_core.model import load

    folder = load(run, device="cpu").export(target)
    print(f'wrote {folder}; in Python: dfm_core.load("{folder}")')
