"""`dfm decompose`: see what a decomposition does to a picture."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.flags import ConfigFlags, resolve_flags
from dfm_core.cli.output import print_json, print_table
from dfm_core.config.sizes import write_size, write_stages

if TYPE_CHECKING:
    from dfm_core.inspection import DecompositionReport


@command
def decompose(
    photo: Annotated[Path, typer.Argument(help="Any picture; its short side is fitted, its centre kept.", metavar="PHOTO")],
    flags: ConfigFlags,
    json: Json = False,
) -> None:
    """Decompose a picture and write a contact sheet: each stage, each cumulative preview, the reconstruction error.

    --output is the picture to write; default: PHOTO's name with the decomposition's.
    """
    config = resolve_flags(flags).config
    from dfm_core.images import read_image
    from dfm_core.inspection import inspect_decomposition
    from dfm_core.interfaces.decomposition import DecompositionFacts
    from dfm_core.plots import plot_decomposition, save_figure
    from dfm_core.plugins.registry import default_registry

    choice = config.component("decomposition")
    image = read_image(photo, config.stages[-1])[None]
    facts = DecompositionFacts(config.stages, image.shape[1])
    decomposition = default_registry().create("decomposition", choice.name, choice.options, facts)
    report = inspect_decomposition(decomposition, image)
    path = Path(config.output) if config.output else Path(f"{photo.stem}-{choice.name.replace('/', '-')}.png")
    title = f"{choice.name}, stages {write_stages(config.stages)}"
    save_figure(plot_decomposition(report.layout, report.stages, report.previews, image, title), path)
    if json:
        numbers = [asdict(row) for row in report.numbers]
        print_json({"stages": numbers, "largest_error": report.largest_error, "mean_error": report.mean_error, "picture": str(path)})
    else:
        print_report(report)
        print(f"wrote {path}")


def print_report(report: DecompositionReport) -> None:
    """Print the numbers of each stage, and what recomposition loses."""
    rows = [
        (n.stage, write_size(n.resolution), "x".join(map(str, n.shape)), f"{n.rms:.4f}", f"{n.std:.4f}", f"{n.energy:.2%}")
        for n in report.numbers
    ]
    print_table("", ["stage", "preview", "tensor", "rms", "std", "energy"], rows)
    print(f"reconstruction error: largest {report.largest_error:.2e}, mean {report.mean_error:.2e}")
