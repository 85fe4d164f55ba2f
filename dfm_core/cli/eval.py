"""`dfm eval`: sample a run and measure the samples, or measure a folder of images or clips."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.encode import ignore
from dfm_core.cli.eval_metrics import check_metrics, read_metrics, suited
from dfm_core.cli.eval_report import report, reporter
from dfm_core.cli.flags import warn_of_thresholds
from dfm_core.cli.interrupt import INTERRUPTED, termination_as_interrupt
from dfm_core.cli.launch import Nproc, is_first_process, is_launcher, launch
from dfm_core.cli.numbers import read_counts, read_numbers
from dfm_core.cli.output import info, warning
from dfm_core.errors import UsageError

if TYPE_CHECKING:
    from dfm_core.evaluation.evaluation import Evaluation, EvaluationSettings

DEFAULT_NUM = 1000


def _option(help_text: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(help=help_text, metavar=metavar, **more)


@command
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Folder of a run, or of an exported model.", metavar="RUN")] = None,
    samples: Annotated[
        Path | None, _option("Measure the images (or clips) of a folder, without a model.", "FOLDER")
    ] = None,
    reference: Annotated[
        Path | None, _option("Folder of real images (or clips).", "FOLDER", show_default="the data that the run names")
    ] = None,
    metrics: Annotated[
        str | None, _option("Which metrics, by commas.", "NAMES", show_default="those that need no weights")
    ] = None,
    set: Annotated[list[str] | None, _option("An option of a metric; may be repeated.", "METRIC.OPTION=VALUE")] = None,
    num: Annotated[
        int | None, _option("How many samples.", min=2, show_default=f"{DEFAULT_NUM}; of a folder, all")
    ] = None,
    reference_num: Annotated[int, _option("Most real images or clips that are used.", min=2)] = 10_000,
    split: Annotated[Literal["train", "validation"], _option("Which part of the run's data.")] = "train",
    cfg: Annotated[str | None, _option("Guidance weights, each evaluated: 1.0,1.5.", "WEIGHTS")] = None,
    schedule: Annotated[str | None, _option("Another stage schedule than the run's.", "NAME")] = None,
    steps: Annotated[str | None, _option("Steps of each stage: 30,10.", "STEPS")] = None,
    thresholds: Annotated[str | None, _option("t at which the next stage starts: 0.7.", "THRESHOLDS")] = None,
    solver: Annotated[str | None, _option("euler, heun, midpoint or ab2.")] = None,
    seed: Annotated[int, _option("Image i depends on (seed, i).", min=0)] = 0,
    batch_size: Annotated[int | None, _option("Images or clips generated at once.", min=1)] = None,
    frames: Annotated[
        int | None, _option("--samples are clips: measure so many frames of each.", min=2, show_default="images")
    ] = None,
    frame_rate: Annotated[
        float | None,
        _option("Of clips in folders, frames a second.", "FPS", min=0.1, max=240, show_default="every frame"),
    ] = None,
    output: Annotated[
        Path | None, _option("New folder for results and pictures.", show_default="RUN/evaluation/<number>")
    ] = None,
    cache: Annotated[
        Path | None, _option("Where statistics of the reference are kept.", "FOLDER", show_default="the user's cache")
    ] = None,
    workers: Annotated[int, _option("Processes that load images or clips, beside each.", min=0)] = 0,
    device: Annotated[str, _option("auto, cpu, cuda, cuda:N or mps.")] = "auto",
    nproc: Nproc = None,
    json: Json = False,
) -> None:
    """Measure how good samples are.

    Prints a table, and writes results.json and a grid of the samples. Samples are kept below RUN/evaluation/samples and
    made once: the same command goes on where it was stopped.
    """
    if (run is None) == (samples is None):
        raise UsageError("expected either a RUN or --samples FOLDER")
    if samples is not None and reference is None:
        raise UsageError("--samples needs real images to compare with: --reference FOLDER")
    of_a_run = {"--cfg": cfg, "--schedule": schedule, "--steps": steps, "--thresholds": thresholds, "--solver": solver}
    if samples is not None and any(of_a_run.values()):
        given = ", ".join(flag for flag, value in of_a_run.items() if value is not None)
        raise UsageError(f"{given}: a folder of samples is measured as it is; leave this out")
    if samples is None and frames is not None:
        raise UsageError("--frames: a run says how many its clips have; leave this out")
    if frame_rate is not None and reference is None:
        raise UsageError("--frame-rate is of clips in folders: give --reference FOLDER, or leave it out")
    if output is not None and output.exists():
        raise UsageError(f"{output} exists already; choose another --output, or leave it out")
    chosen = read_metrics(metrics, set or [])
    weights, counts, limits = read_weights(cfg), read_counts(steps, "--steps"), read_numbers(thresholds, "--thresholds")
    if is_launcher(nproc) and nproc is not None:
        raise typer.Exit(launch(nproc))
    begin = time.perf_counter()
    try:
        with termination_as_interrupt():
            from dfm_core.evaluation.evaluation import EvaluationSettings

            settings = EvaluationSettings(
                metrics=chosen,
                num=num or (DEFAULT_NUM if samples is None else None),
                cfg=weights,
                seed=seed,
                solver=solver,
                batch_size=batch_size,
                reference=reference,
                reference_num=reference_num,
                split=split,
                cache=cache,
                workers=workers,
                frames=frames,
                frame_rate=frame_rate,
            )
            sampling = {"name": schedule, "steps": counts, "thresholds": limits}
            folder, evaluation = measure(run, samples, output, settings, device, sampling, metrics is not None)
    except KeyboardInterrupt:
        if is_first_process():
            print("stopped; samples that were made stay, and the same command goes on", flush=True)
        raise typer.Exit(INTERRUPTED) from None
    if is_first_process():
        report(folder, evaluation, time.perf_counter() - begin, json)


def read_weights(text: str | None) -> list[float] | None:
    """Read guidance weights, each once. Raises UsageError."""
    weights = read_numbers(text, "--cfg")
    if weights is not None and not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise UsageError(f"--cfg: expected finite numbers of at least 0, got {text}")
    return None if weights is None else list(dict.fromkeys(weights))


def measure(
    run: Path | None,
    samples: Path | None,
    output: Path | None,
    settings: EvaluationSettings,
    device: str,
    schedule: dict[str, Any],
    named: bool,
) -> tuple[Path, Evaluation]:
    """Make and measure all sets of samples, and write what came.

    schedule: as `Model.with_schedule` takes it. named: the user chose the metrics; otherwise those that suit are taken.
    """
    from dfm_core.devices import resolve_device
    from dfm_core.evaluation.evaluation import Voice, evaluate_folder, evaluate_model
    from dfm_core.evaluation.result_folder import results_in
    from dfm_core.media import PLURAL, measured_medium
    from dfm_core.model import load
    from dfm_core.training.distributed import joined_world

    check_metrics(settings.metrics)
    say = info if is_first_process() else ignore
    root = run / "evaluation" if run is not None else Path("evaluations")
    with joined_world(resolve_device(device)) as world:
        if run is not None:
            model = load(run, device=str(world.device)).with_schedule(**schedule)
            medium = measured_medium(model.composition.generated_size)
        else:
            model, medium = None, "image" if settings.frames is None else "video"
        if not named:
            settings = replace(settings, metrics=suited(settings.metrics, medium))
        voice = Voice(say, warning, reporter(say, PLURAL[medium]))
        if schedule["thresholds"] is not None and model is not None and world.is_first:
            warn_of_thresholds("--thresholds", model.composition.num_stages)
        folder = output or unused_folder(root)
        with results_in(folder, world) as keep:
            if model is not None:
                evaluation = evaluate_model(model, root / "samples", settings, world, voice=voice, keep=keep)
            else:
                evaluation = evaluate_folder(Path(str(samples)), settings, world, voice=voice)
                keep(evaluation)
    return folder, evaluation


def unused_folder(root: Path) -> Path:
    """First number that no folder below `root` has: root/0001, root/0002, …"""
    number = 1
    while (root / f"{number:04d}").exists():
        number += 1
    return root / f"{number:04d}"
