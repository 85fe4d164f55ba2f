"""`dfm train`: begin a run, or go on with one."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.early_checks import check_data, check_device, check_new_output
from dfm_core.cli.flags import ConfigFlags, config_request, plugin_flags, resolve_flags
from dfm_core.cli.interrupt import INTERRUPTED
from dfm_core.cli.launch import Nproc, is_first_process, is_launcher, launch, number_of_processes
from dfm_core.cli.numbers import write_amount, write_bytes
from dfm_core.cli.output import console, info, output_options, print_json, print_table
from dfm_core.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from dfm_core.composition import Composition
    from dfm_core.config.run_config import RunConfig
    from dfm_core.plan import TrainingPlan
    from dfm_core.runs.start import FinishedRun


@command
def train(
    flags: ConfigFlags,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.", metavar="RUN")] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Begin with the weights of a run or exported model.", metavar="RUN")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan (shapes, parameters, memory, FLOPs) and stop.")
    ] = False,
    nproc: Nproc = None,
    json: Json = False,
) -> None:
    """Train a model.

    Without flags: a small one, on shapes that the program draws. Ctrl-C writes a checkpoint and says how to go on.
    """
    if resume is not None and init_from is not None:
        raise UsageError("--resume goes on with a run and --init-from begins a new one: give one of them")
    if is_launcher(nproc) and nproc is not None and not dry_run:
        raise typer.Exit(launch(nproc))
    config = new_config(flags, dry_run) if resume is None else resumed_config(resume, flags)
    if init_from is not None:
        config = config.model_copy(update={"init_from": os.path.abspath(init_from)})
    if dry_run:
        show_plan(config, json, nproc or number_of_processes())
        return
    check_device(config.device)
    run = train_run(config, resume, json)
    if is_first_process():
        if json:
            print_result(run)
        else:
            say_how_to_go_on(run)
    if run.training.interrupted and not run.training.out_of_time:
        raise typer.Exit(INTERRUPTED)


def new_config(flags: ConfigFlags, dry_run: bool) -> RunConfig:
    """Configuration of a new run. Raises UsageError where its folder exists, DataError where its data does not."""

    def check(config: RunConfig) -> None:
        if not dry_run:
            check_new_output(config)
        check_data(config)

    return resolve_flags(flags, check=check).config


def resumed_config(path: Path, flags: ConfigFlags) -> RunConfig:
    """Configuration of the run at `path` with what the flags change. Raises ConfigError for what may not change."""
    from dfm_core.config.resolve import read_config
    from dfm_core.config.resume import check_resume
    from dfm_core.plugins.registry import default_registry
    from dfm_core.training.run_directory import RunDirectory

    config_file = RunDirectory.open(path).config
    before, request = read_config(config_file).config, config_request(flags, config_file)
    # First, since the options of another component would be complained about before its name.
    for flag in request.flags:
        kind, _, rest = flag.key.partition(".")
        if rest == "name" and flag.value != before.component(kind).name:
            raise ConfigError(
                f"{flag.flag}: the run has {before.component(kind).name!r}, got {flag.value!r}; a run keeps its "
                f"components: start a new one, with --init-from {path} if it is to begin with these weights"
            )
    config = resolve_flags(flags, config_file).config
    check_resume(before, config, default_registry())
    return config


def train_run(config: RunConfig, resume: Path | None, json: bool) -> FinishedRun:
    """Train to the end or to an interrupt. json: progress goes to stderr, stdout is for the result."""
    if is_first_process():
        info("preparing data and model …")
    from dfm_core.plugins.registry import default_registry
    from dfm_core.runs.start import resume_run, start_run
    from dfm_core.training.progress import make_reporter

    reporter = make_reporter(output_options().quiet, console=console(stderr=json))
    if resume is not None:
        return resume_run(resume, config, default_registry(), reporter=reporter, announce=announce)
    return start_run(config, default_registry(), reporter=reporter, announce=announce)


def announce(path: Path, composition: Composition) -> None:
    """Say what is trained, and where, when the first step is next."""
    from dfm_core.media import media_noun

    config, backbone = composition.config, composition.model.backbone
    sizes = " → ".join("×".join(map(str, size)) for size in config.stages)
    classes = f"{len(composition.data.classes)} classes" if composition.data.classes else "no labels"
    steps = f"to step {config.training.max_steps}, {config.training.batch_size} {media_noun(config)} a step"
    described = [
        f"{write_amount(sum(p.numel() for p in backbone.parameters()))} parameters",
        *(f"{key} {value}" for key, value in backbone.describe().items()),
    ]
    info(f"run {path}")
    info(f"{config.component('dataset').name}, {classes}; {steps}")
    info(f"{config.component('decomposition').name}, stages {sizes}")
    number = number_of_processes()
    together = f", {number} processes ({config.training.parallel})" if number > 1 else ""
    info(f"{config.component('backbone').name}, {', '.join(described)}; on {composition.device}{together}")


def say_how_to_go_on(run: FinishedRun) -> None:
    """Print how the training ended and where it lies, and unless --quiet what can be done next."""
    training, hints = run.training, []
    again = plugin_flags(run.composition.config)
    if run.unreadable:
        print(f"{run.unreadable} unreadable file{'s' * (run.unreadable != 1)} skipped")
    if run.too_short:
        print(f"{run.too_short} clip{'s' * (run.too_short != 1)} skipped as too short")
    if run.unreadable or run.too_short:
        print(f"their names: {run.path / 'skipped.txt'}")
    if training.interrupted:
        why = " (training.max_minutes)" if training.out_of_time else ""
        print(f"stopped after step {training.step}{why}; checkpoint {training.checkpoint}")
        hints = [f"go on with:  dfm train --resume {run.path}{again}"]
    elif training.step == run.first_step:
        print(f"all {training.step} steps of this run were done before; it lies in {run.path}")
        hints = [f"train longer with:  dfm train --resume {run.path}{again} --max-steps {2 * training.step}"]
    else:
        print(f"trained to step {training.step}; the run lies in {run.path}")
    if not training.interrupted:
        hints.append(f"sample with:  dfm sample {run.path}{again} --num 16 --previews")
    if not output_options().quiet:
        print("\n".join(hints))


def print_result(run: FinishedRun) -> None:
    """Print how the training ended, as JSON."""
    training = run.training
    ended = {"step": training.step, "loss": training.last_loss, "interrupted": training.interrupted}
    skipped = {"unreadable": run.unreadable, "too_short": run.too_short}
    print_json({"run": str(run.path), **ended, "checkpoint": str(training.checkpoint), **skipped})


def show_plan(config: RunConfig, json: bool, processes: int = 1) -> None:
    """Print what a run would need; of memory, what each of its processes would."""
    from dfm_core.assembly import Assembler
    from dfm_core.plan import plan_of_each, plan_training
    from dfm_core.plugins.registry import default_registry
    from dfm_core.runs.start import describe_data

    assembler = Assembler(config, default_registry())
    assembler.check_media()
    plan = plan_training(assembler, describe_data(assembler.dataset()))
    plan = plan_of_each(plan, config.training, processes)
    if json:
        needed = {"memory_bytes": plan.memory_bytes, "processes": processes, "max_steps": config.training.max_steps}
        print_json({**asdict(plan), **needed})
        return
    stages = [(index + 1, stage["resolution"], stage["shape"]) for index, stage in enumerate(plan.stages)]
    print_table("Stages", ["stage", "preview", "tensor"], stages)
    print()
    print_table("Plan", ["what", "value"], plan_rows(plan, config, processes))


def plan_rows(plan: TrainingPlan, config: RunConfig, processes: int = 1) -> list[tuple[str, str]]:
    """Rows of the plan's second table: what, and how much."""
    training = config.training
    parts = f", in {training.accumulation} parts" if training.accumulation > 1 else ""
    kept = config.flow.batch_shares
    memory = {
        "weights, gradients, optimiser, averages": plan.state_bytes,
        "activations": plan.activation_bytes,
        "stages and noise": plan.stage_bytes,
        "memory of a step, estimated": plan.memory_bytes,
    }
    return [
        ("network", config.component("backbone").name),
        *plan.backbone.items(),
        ("parameters", f"{write_amount(plan.parameters)} ({plan.parameters})"),
        ("batch size", f"{training.batch_size}{parts}"),
        *([("processes", f"{processes} ({training.parallel}); memory is of each")] if processes > 1 else []),
        *([("trained of it, by stage", ", ".join(f"{share:g}" for share in kept))] if kept else []),
        *((name, write_bytes(size)) for name, size in memory.items()),
        ("FLOPs of a step", write_amount(plan.flops)),
        ("FLOPs of training", f"{write_amount(plan.flops * training.max_steps)} in {training.max_steps} steps"),
        ("steps of generation", str(plan.generation_steps)),
    ]
