"""`dfm sample`: generate images from a run or an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.output import info, print_json
from dfm_core.errors import UsageError

if TYPE_CHECKING:
    from dfm_core.model import Model


@command
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of an exported model.", metavar="RUN")],
    num: Annotated[int | None, typer.Option(help="Images.", min=1, show_default="the run's, 16")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images generated at once; changes none of them.", min=1)] = None,
    label: Annotated[str | None, typer.Option(help="Classes by number or name, in turn: 0,3. All without.", metavar="LABELS")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance weight; 1 is none.", min=0)] = None,
    steps: Annotated[str | None, typer.Option(help="Steps of each stage: 30,10.", metavar="STEPS")] = None,
    thresholds: Annotated[str | None, typer.Option(help="t at which the next stage starts: 0.7.", metavar="THRESHOLDS")] = None,
    solver: Annotated[str | None, typer.Option(help="euler, heun, midpoint or ab2.")] = None,
    seed: Annotated[int, typer.Option(help="Image i depends on (seed, i).", min=0)] = 0,
    previews: Annotated[bool, typer.Option("--previews", help="Also write the preview at each stage.")] = False,
    animate: Annotated[bool, typer.Option("--animate", help="Also write a GIF of the progressive generation.")] = False,
    output: Annotated[Path | None, typer.Option(help="New folder for the images.", show_default="RUN/samples/<number>")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Generate images: a grid, one PNG an image, and on request the stages' previews and an animation."""
    if output is not None and output.exists():
        raise UsageError(f"{output} exists already; choose another --output, or leave it out")
    from dfm_core.gallery import Gallery
    from dfm_core.model import load
    from dfm_core.solvers import make_solver

    model = load(run, device=device).with_schedule(steps=numbers(steps, int, "steps"), thresholds=numbers(thresholds, float, "thresholds"))
    sampling = model.composition.config.sampling
    num, size, name = num or sampling.num, batch_size or sampling.batch_size, solver or sampling.solver
    calls = model.composition.grid.num_steps * make_solver(name).calls_per_step
    labels = [part.strip() for part in label.split(",")] if label else None
    gallery = Gallery(num, previews, animate)
    for first in range(0, num, size):
        count = min(size, num - first)
        gallery.collect(model.stream(count, labels=labels, seed=seed, cfg=cfg, solver=name, first_index=first))
        info(f"{first + count} of {num} images")
    folder = output or unused_folder(run)
    paths = gallery.write(folder)
    if json:
        used = model.labels_for(num, labels)
        print_json({"folder": str(folder), "images": num, "model_calls": calls, "labels": used, "files": [path.name for path in paths]})
    else:
        print(f"{calls} model calls an image ({name}, {model.composition.grid.num_steps} steps{guided(model, cfg)})")
        print(f"wrote {len(paths)} files; grid: {paths[0]}")


def numbers(text: str | None, kind: type, flag: str) -> list[float] | None:
    """Read "30,10" as numbers. Raises UsageError."""
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--{flag} {text!r}: expected numbers separated by commas, one a stage") from None


def guided(model: Model, cfg: float | None) -> str:
    """Words about guidance for the line that counts the calls."""
    weight = model.composition.config.sampling.cfg if cfg is None else cfg
    return "" if weight == 1 else f"; guidance {weight:g}: each with a label and without, as one batch"


def unused_folder(run: Path) -> Path:
    """Folder for samples in a run: samples/0001, samples/0002, …"""
    root = run / "samples"
    number = 1
    while (root / f"{number:04d}").exists():
        number += 1
    return root / f"{number:04d}"
