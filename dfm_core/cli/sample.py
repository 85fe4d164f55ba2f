"""`dfm sample`: generate images or clips from a run or an exported model."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.early_checks import check_device
from dfm_core.cli.flags import warn_of_thresholds
from dfm_core.cli.numbers import read_counts, read_numbers
from dfm_core.cli.output import console, info, output_options, print_json
from dfm_core.errors import UsageError

if TYPE_CHECKING:
    from dfm_core.generation import GenerationStep


@command
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of an exported model.", metavar="RUN")],
    num: Annotated[
        int | None, typer.Option(help="How many images or clips.", min=1, show_default="the run's, 16")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="How many at once; changes none of them.", min=1)] = None,
    label: Annotated[
        str | None, typer.Option(help="Classes by number or name, in turn: 0,3. All without.", metavar="LABELS")
    ] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance weight; 1 is none.")] = None,
    cfg_interval: Annotated[
        str | None, typer.Option(help="Range of t in which a stage is guided: 0.2,0.8.", metavar="LOW,HIGH")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Another stage schedule than the run's, with its defaults.", metavar="NAME")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Steps of each stage: 30,10.", metavar="STEPS")] = None,
    thresholds: Annotated[
        str | None, typer.Option(help="t at which the next stage starts: 0.7.", metavar="THRESHOLDS")
    ] = None,
    solver: Annotated[str | None, typer.Option(help="euler, heun, midpoint or ab2.")] = None,
    seed: Annotated[int, typer.Option(help="Image i depends on (seed, i).", min=0)] = 0,
    previews: Annotated[bool, typer.Option("--previews", help="Also write the preview at each stage.")] = False,
    animate: Annotated[bool, typer.Option("--animate", help="Also write a GIF of the progressive generation.")] = False,
    frame_rate: Annotated[
        float | None,
        typer.Option(help="Frames a second of clips.", min=0.1, max=240, show_default="the run's, 8", metavar="FPS"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="New folder for the images.", show_default="RUN/samples/<number>")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Generate images or clips.

    Writes a grid, one PNG an image (a clip: contact sheet, GIF and MP4), and on request the previews of the stages and
    an animation.
    """
    if output is not None and output.exists():
        raise UsageError(f"{output} exists already; choose another --output, or leave it out")
    if cfg is not None and not (math.isfinite(cfg) and cfg >= 0):
        raise UsageError(f"--cfg: expected a finite number of at least 0, got {cfg:g}")
    counts, limits = read_counts(steps, "--steps"), read_numbers(thresholds, "--thresholds")
    interval = read_numbers(cfg_interval, "--cfg-interval")
    check_device(device)
    from dfm_core.media import media_noun
    from dfm_core.model import load
    from dfm_core.pictures.gallery import Gallery, grid_columns

    model = load(run, device=device).with_schedule(schedule, steps=counts, thresholds=limits)
    if limits is not None:
        warn_of_thresholds("--thresholds", model.composition.num_stages)
    sampling = model.composition.config.sampling
    num, size = num or sampling.num, batch_size or sampling.batch_size
    labels = None if label is None else [part.strip() for part in label.split(",")]
    settings: dict[str, Any] = {
        "seed": seed,
        "cfg": sampling.cfg if cfg is None else cfg,
        "cfg_interval": sampling.cfg_interval if interval is None else interval,
        "solver": solver or sampling.solver,
    }
    if interval is not None and settings["cfg"] == 1:
        raise UsageError("--cfg-interval: there is no guidance to bound, its weight is 1; give --cfg too")
    classes = model.labels_for(num, labels)
    batches = [range(first, min(first + size, num)) for first in range(0, num, size)]
    streams = [model.stream(len(batch), first_index=batch.start, labels=labels, **settings) for batch in batches]
    num_steps = model.composition.grid.num_steps
    noun = media_noun(model.composition.config)
    columns, rate = grid_columns(num, len(set(classes or ()))), frame_rate or sampling.frame_rate
    gallery = Gallery(columns, previews, animate, rate)
    begin = time.perf_counter()
    with new_folder(output, run) as folder, progress_bar(num_steps * len(batches)) as advance:
        for batch, stream in zip(batches, streams, strict=True):
            gallery.collect(counted(stream, advance))
            info(f"{batch.stop} of {num} {noun}")
        settings |= {"steps": num_steps, "seconds": time.perf_counter() - begin}
        paths = gallery.write(folder)
    report(paths, noun, num, classes, settings, json)


def report(
    paths: list[Path], noun: str, num: int, classes: list[int] | None, settings: dict[str, Any], json: bool
) -> None:
    """Print how the images or clips (noun) were made and where they lie. paths: the grid first."""
    from dfm_core.pictures.clip_gallery import can_write_mp4
    from dfm_core.solvers import make_solver

    weight, steps = settings["cfg"], settings["steps"]
    calls = steps * make_solver(settings["solver"]).calls_per_step
    if json:
        files = [path.name for path in paths]
        made = {"folder": str(paths[0].parent), noun: num, "labels": classes}
        print_json({**made, **settings, "model_calls": calls, "files": files})
        return
    low, high = settings["cfg_interval"]
    within = "" if (low, high) == (0, 1) else f" at t {low:g} to {high:g}"
    guided = "" if weight == 1 else f", each with and without label for guidance {weight:g}{within}"
    each, solver, seconds = noun.removesuffix("s"), settings["solver"], settings["seconds"]
    print(f"{calls} model calls per {each} ({solver}, {steps} steps{guided}); {seconds:.1f} s")
    print(f"wrote {len(paths)} files; grid: {paths[0]}")
    if noun == "clips" and not can_write_mp4():
        info("clips are GIFs only; MP4 files need: pip install 'decomposable-flow-matching[video]'")


@contextmanager
def new_folder(output: Path | None, run: Path) -> Iterator[Path]:
    """Make the folder for the images before the work begins: `output`, or a numbered one; gone again if that fails."""
    folder = output or unused_folder(run)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}; choose another --output") from error
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def unused_folder(run: Path) -> Path:
    """Folder for samples in a run: samples/0001, samples/0002, …"""
    root = run / "samples"
    number = 1
    while (root / f"{number:04d}").exists():
        number += 1
    return root / f"{number:04d}"


def counted(steps: Iterable[GenerationStep], advance: Callable[[], None]) -> Iterator[GenerationStep]:
    """Pass steps on and call `advance` after each."""
    for step in steps:
        yield step
        advance()


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[], None]]:
    """Show a bar of `total` steps on a terminal while the work lasts; elsewhere nothing."""
    if output_options().quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("generating", total=total)
        yield lambda: bar.advance(task)
