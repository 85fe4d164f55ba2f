"""`dfm train`: begin a run, or go on with one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.flags import ConfigFlags, config_request, resolve_flags
from dfm_core.cli.output import info, output_options, print_json, print_table, warning
from dfm_core.errors import UsageError

if TYPE_CHECKING:
    from dfm_core.assembly import Composition
    from dfm_core.config.run_config import RunConfig
    from dfm_core.plan import TrainingPlan
    from dfm_core.runs import FinishedRun

INTERRUPTED = 130


@command
def train(
    flags: ConfigFlags,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.", metavar="RUN")] = None,
    init_from: Annotated[Path | None, typer.Option(help="Begin with the weights of a run or exported model.", metavar="RUN")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan (shapes, parameters, memory, FLOPs) and stop.")] = False,
    json: Json = False,
) -> None:
    """Train a model. Without flags: a small one, on shapes that the program draws."""
    if resume is not None and init_from is not None:
        raise UsageError("--resume goes on with a run and --init-from begins a new one: give one of them")
    if dry_run:
        _show_plan(resolve_flags(flags).config, json)
        return
    run = _resume(resume, flags) if resume is not None else _start(flags, init_from)
    if json:
        print_json({"run": str(run.path), "step": run.training.step, "loss": run.training.last_loss, "interrupted": run.training.interrupted})
    _say_how_to_go_on(run)
    if run.training.interrupted:
        raise typer.Exit(INTERRUPTED)


def _start(flags: ConfigFlags, init_from: Path | None) -> FinishedRun:
    resolved = resolve_flags(flags)
    from dfm_core.plugins.registry import default_registry
    from dfm_core.runs import start_run
    from dfm_core.training.progress import make_reporter

    info("preparing data and model …")
    reporter = make_reporter(output_options().quiet)
    return start_run(resolved.config, default_registry(), reporter=reporter, init_from=init_from, announce=_announce)


def _resume(path: Path, flags: ConfigFlags) -> FinishedRun:
    from dfm_core.config.resolve import read_config, resolve_config
    from dfm_core.config.resume import check_resume
    from dfm_core.plugins.registry import default_registry
    from dfm_core.runs import resume_run
    from dfm_core.training.progress import make_reporter
    from dfm_core.training.run_directory import RunDirectory

    config_file = RunDirectory.open(path).config
    resolved = resolve_config(config_request(flags, config_file))
    for notice in check_resume(read_config(config_file).config, resolved.config):
        warning(notice)
    reporter = make_reporter(output_options().quiet)
    return resume_run(path, resolved.config, default_registry(), reporter=reporter, announce=_announce)


def _announce(path: Path, composition: Composition) -> None:
    config = composition.config
    parameters = sum(p.numel() for p in composition.model.backbone.parameters())
    described = ", ".join(f"{key} {value}" for key, value in composition.model.backbone.describe().items())
    sizes = " → ".join("×".join(map(str, size)) for size in config.stages)
    info(f"run {path}: {config.component('decomposition').name}, stages {sizes}; {config.component('backbone').name}, {parameters / 1e6:.2f} M parameters{', ' + described if described else ''}; {composition.device}")


def _say_how_to_go_on(run: FinishedRun) -> None:
    if run.training.interrupted:
        info(f"stopped after step {run.training.step}; checkpoint {run.training.checkpoint}\ngo on with:  dfm train --resume {run.path}")
    else:
        info(f"trained {run.training.step} steps; the run lies in {run.path}\nsample with:  dfm sample {run.path} --num 16 --previews")


def _show_plan(config: RunConfig, json: bool) -> None:
    from dataclasses import asdict

    from dfm_core.assembly import Assembler
    from dfm_core.plan import plan_training
    from dfm_core.plugins.registry import default_registry
    from dfm_core.runs import describe_data

    assembler = Assembler(config, default_registry())
    plan = plan_training(assembler, describe_data(assembler.dataset()))
    if json:
        print_json({**asdict(plan), "memory_bytes": plan.memory_bytes})
        return
    print_table("stages", ["stage", "resolution", "tensor"], [(i + 1, s["resolution"], s["shape"]) for i, s in enumerate(plan.stages)])
    print_table("one step", ["what", "value"], plan_rows(plan, config))


def plan_rows(plan: TrainingPlan, config: RunConfig) -> list[tuple[str, str]]:
    """Rows of the plan's second table: what, and how much."""
    gigabytes = {"weights, gradients, optimiser, EMA": plan.state_bytes, "activations": plan.activation_bytes, "stage tensors": plan.stage_bytes, "memory in all (estimate)": plan.memory_bytes}
    return [
        *plan.backbone.items(),
        ("parameters", f"{plan.parameters / 1e6:.3f} M"),
        ("batch size", f"{config.training.batch_size} in {config.training.accumulation} part(s)"),
        ("FLOPs", f"{plan.flops / 1e9:.2f} G"),
        *((name, f"{size / 2**30:.3f} GiB") for name, size in gigabytes.items()),
        ("FLOPs of all steps", f"{plan.flops * config.training.max_steps / 1e12:.2f} T in {config.training.max_steps} steps"),
    ]
