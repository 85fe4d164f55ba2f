"""The trainings of a comparison: each done once, begun or gone on with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from dfm_core.comparison.plan import Plan
from dfm_core.config.resolve import read_config
from dfm_core.config.resume import check_resume
from dfm_core.config.run_config import RunConfig
from dfm_core.errors import NonFiniteLossError
from dfm_core.plugins.registry import Registry
from dfm_core.runs.start import resume_run, start_run
from dfm_core.training.checkpoint import FOLDER, checkpoint_name
from dfm_core.training.progress import Reporter
from dfm_core.training.run_directory import CONFIG_FILE, replace_text

DIVERGED = "diverged.txt"
"""Lies in the folder of a training whose loss was no number any more: it is not tried again."""


class TrainingInterrupted(Exception):
    """Somebody asked a training to stop; its checkpoint is written."""


def training_folder(folder: Path, plan: Plan, variant: str, seed: int, rate: float | None) -> Path:
    """Where a variant's training lies, with its runs in it."""
    rates = [] if rate is None else [f"rate-{rate:g}"]
    return folder.joinpath("runs", plan.variants[variant].training, *rates, f"seed-{seed}")


def run_folders(training: Path, plan: Plan, variant: str) -> list[Path]:
    """Folders of the runs of a training, in their order."""
    return [training / f"run-{number}" for number, _ in enumerate(plan.variants[variant].runs, 1)]


def is_trained(run: Path, steps: int) -> bool:
    """Whether a run has its last checkpoint."""
    return (run / FOLDER / checkpoint_name(steps)).is_dir()


def has_diverged(training: Path) -> bool:
    """Whether a training came to an end by itself."""
    return (training / DIVERGED).is_file()


def train_variant(
    training: Path,
    plan: Plan,
    variant: str,
    seed: int,
    rate: float | None,
    registry: Registry,
    make_reporter: Callable[[], Reporter],
    say: Callable[[str], None],
) -> bool:
    """Train what is missing of a variant's runs; return whether they are whole, or have diverged.

    Raises TrainingInterrupted, and errors of the runs.
    """
    folders = run_folders(training, plan, variant)
    steps = plan.schedules[plan.variants[variant].training].steps
    before: Path | None = None
    for number, run in enumerate(folders):
        if has_diverged(training):
            return False
        if not is_trained(run, steps[number]):
            of = f", run {number + 1} of {len(folders)}" if len(folders) > 1 else ""
            at = "" if rate is None else f", learning rate {rate:g}"
            say(f"training {plan.variants[variant].training}{of}: seed {seed}{at}, to step {steps[number]}")
            config = plan.config(variant, number, seed, rate, run)
            try:
                train_run(run, config, registry, make_reporter(), before)
            except NonFiniteLossError as error:
                replace_text(training / DIVERGED, f"{error}\n")
                say(f"{plan.variants[variant].training}: {error}")
                return False
        before = run
    return True


def train_run(
    run: Path, config: RunConfig, registry: Registry, reporter: Reporter, init_from: Path | None = None
) -> None:
    """Begin a run, or go on with it. Raises TrainingInterrupted where it was stopped before its end."""
    begun = config if init_from is None else config.model_copy(update={"init_from": str(init_from.resolve())})
    if run.exists() and not (run / CONFIG_FILE).exists():
        shutil.rmtree(run)  # killed before it had begun
    if run.exists():
        check_resume(read_config(run / CONFIG_FILE, registry).config, begun, registry)
        finished = resume_run(run, begun, registry, reporter=reporter)
    else:
        finished = start_run(begun, registry, reporter=reporter)
    if finished.training.interrupted:
        raise TrainingInterrupted
