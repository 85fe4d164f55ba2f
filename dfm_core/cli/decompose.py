"""`dfm decompose`: see what a decomposition does to a picture."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.flags import ConfigFlags, resolve_flags
from dfm_core.cli.output import format_value, print_json, print_table
from dfm_core.config.sizes import write_size, write_stages
from dfm_core.errors import DataError, UsageError

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.inspection import DecompositionReport


@command
def decompose(
    photo: Annotated[
        Path, typer.Argument(help="Any picture; its short side is fitted, its centre kept.", metavar="PHOTO")
    ],
    flags: ConfigFlags,
    json: Json = False,
) -> None:
    """Draw a picture's stages.

    Writes a contact sheet: each stage, each cumulative preview, the reconstruction error; and prints the numbers.
    --output is the picture to write; default: PHOTO's name with the decomposition's.
    """
    config = resolve_flags(flags).config
    choice = config.component("decomposition")
    path = Path(config.output) if config.output else Path(f"{photo.stem}-{choice.name.replace('/', '-')}.png")
    check_paths(photo, path)
    if len(config.stages[-1]) != 2:
        raise UsageError(
            f"a picture has two dimensions, expected stages like 48x64,96x128; got {write_stages(config.stages)}"
        )
    from dfm_core.figures import check_picture_path, save_figure
    from dfm_core.images import read_image
    from dfm_core.inspection import inspect_decomposition
    from dfm_core.interfaces.decomposition import DecompositionFacts
    from dfm_core.plots import plot_decomposition
    from dfm_core.plugins.registry import default_registry

    check_picture_path(path)
    image = read_image(photo, config.stages[-1])[None]
    facts = DecompositionFacts(config.stages, image.shape[1])
    decomposition = default_registry().create("decomposition", choice.name, choice.options, facts)
    report = inspect_decomposition(decomposition, image)
    save_figure(plot_decomposition(report.layout, report.stages, report.previews, image, title_of(config)), path)
    if json:
        errors = {"largest_error": report.largest_error, "mean_error": report.mean_error}
        print_json({"stages": [asdict(row) for row in report.numbers], **errors, "picture": str(path)})
    else:
        print_report(report)
        print(f"wrote {path}")


def check_paths(photo: Path, path: Path) -> None:
    """Raise DataError if there is no photo, UsageError if the picture would take its place."""
    if not photo.exists():
        raise DataError(f"no file {photo.absolute()}; expected a picture, such as a JPEG or PNG")
    if path.exists() and path.samefile(photo):
        raise UsageError(f"--output {path} is the photo itself, which would be overwritten; choose another name")


def title_of(config: RunConfig) -> str:
    """Heading of the contact sheet: the decomposition, what was chosen of its options, the stages."""
    choice = config.component("decomposition")
    options = ", ".join(f"{key}={format_value(value)}" for key, value in choice.options.items() if value is not None)
    return f"{choice.name}{f' ({options})' if options else ''}, stages {write_stages(config.stages)}"


def print_report(report: DecompositionReport) -> None:
    """Print the numbers of each stage, and what recomposition loses."""
    columns = ["stage", "preview", "tensor", "rms", "std", "energy"]
    rows = [
        (
            numbers.stage,
            write_size(numbers.resolution),
            "x".join(map(str, numbers.shape)),
            f"{numbers.rms:.4f}",
            f"{numbers.std:.4f}",
            f"{numbers.energy:.2%}",
        )
        for numbers in report.numbers
    ]
    print_table("", columns, rows)
    print(f"reconstruction error: largest {report.largest_error:.2e}, mean {report.mean_error:.2e}")
