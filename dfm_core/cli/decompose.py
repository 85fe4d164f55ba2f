"""`dfm decompose`: see what a decomposition does to a picture or a clip."""

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
    from torch import Tensor

    from dfm_core.config.run_config import RunConfig
    from dfm_core.inspection import DecompositionReport


@command
def decompose(
    photo: Annotated[
        Path,
        typer.Argument(
            help="A picture, or a clip (MP4, WebM, GIF, folder of frames); the short side is fitted, the centre kept.",
            metavar="FILE",
        ),
    ],
    flags: ConfigFlags,
    json: Json = False,
) -> None:
    """Draw the stages of a picture or a clip.

    Writes a contact sheet: each stage, each cumulative preview, the reconstruction error; of a clip (--frames 8, or
    stages like 8x32x32) also a GIF a stage; and prints the numbers. --output is the sheet to write; default: FILE's
    name with the decomposition's.
    """
    config = resolve_flags(flags).config
    choice = config.component("decomposition")
    path = Path(config.output) if config.output else Path(f"{photo.stem}-{choice.name.replace('/', '-')}.png")
    check_paths(photo, path)
    from dfm_core.inspection import inspect_decomposition
    from dfm_core.interfaces.decomposition import DecompositionFacts
    from dfm_core.media import check_media
    from dfm_core.pictures.figures import check_picture_path
    from dfm_core.plugins.registry import default_registry

    check_media(config, default_registry(), ["decomposition"])
    check_picture_path(path)
    image = read(photo, config.stages[-1])
    facts = DecompositionFacts(config.stages, image.shape[1])
    decomposition = default_registry().create("decomposition", choice.name, choice.options, facts)
    report = inspect_decomposition(decomposition, image)
    animations = write_pictures(report, image, config, path)
    if json:
        errors = {"largest_error": report.largest_error, "mean_error": report.mean_error}
        files = {"picture": str(path), **({"animations": list(map(str, animations))} if animations else {})}
        print_json({"stages": [asdict(row) for row in report.numbers], **errors, **files})
    else:
        print_report(report)
        print("\n".join(f"wrote {written}" for written in (path, *animations)))


def check_paths(photo: Path, path: Path) -> None:
    """Raise DataError if there is no photo, UsageError if the picture would take its place."""
    if not photo.exists():
        raise DataError(f"no file {photo.absolute()}; expected a picture, such as a JPEG or PNG, or a clip")
    if path.exists() and path.samefile(photo):
        raise UsageError(f"--output {path} is the photo itself, which would be overwritten; choose another name")


def read(photo: Path, size: tuple[int, ...]) -> Tensor:
    """Read a picture as (1, 3, H, W), or, for a size with frames, a clip's first ones as (1, 3, T, H, W).

    Raises UsageError for a picture where several frames are asked for, and for a video file where none are.
    """
    from dfm_core.clips import count_frames, is_clip, read_clip
    from dfm_core.images import read_image

    if len(size) == 2:
        if photo.is_file() and is_clip(photo) and photo.suffix.lower() != ".gif":
            there = count_frames(photo)
            raise UsageError(
                f"{photo} is a clip of {there} frame{'s' * (there != 1)}: say how many to take, as in --frames "
                f"{min(8, there)}"
            )
        return read_image(photo, size)[None]
    frames, *picture_size = size
    if is_clip(photo):
        return read_clip(photo, frames, tuple(picture_size))[None]
    if frames > 1:
        raise UsageError(f"{photo} is no clip of {frames} frames; for a picture use stages like 48x64,96x128")
    return read_image(photo, tuple(picture_size))[None, :, None]


def write_pictures(report: DecompositionReport, image: Tensor, config: RunConfig, path: Path) -> list[Path]:
    """Write the contact sheet to `path` and, of a clip, a GIF of each stage beside it, whose paths are returned."""
    from dfm_core.pictures.figures import save_figure
    from dfm_core.pictures.plots import plot_decomposition

    if image.ndim == 4:
        figure = plot_decomposition(report.layout, report.stages, report.previews, image, title_of(config))
        save_figure(figure, path)
        return []
    from dfm_core.clips import write_gif
    from dfm_core.pictures.clip_gallery import from_pixels
    from dfm_core.pictures.clip_plots import moving_stage, plot_clip_decomposition

    save_figure(plot_clip_decomposition(report, image, title_of(config)), path)
    animations = []
    for index, entry in enumerate(report.layout):
        rate = config.sampling.frame_rate * entry.resolution[0] / image.shape[2]
        animations.append(path.with_name(f"{path.stem}-stage-{index + 1}.gif"))
        write_gif(animations[-1], from_pixels(moving_stage(report, index)), rate)
    return animations


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
