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
"""Says that a training's loss was no number any more: it is not tried again. Lies where its measurements would."""


class TrainingInterrupted(Exception):
    """Somebody asked a training to stop; its checkpoint is written."""


def training_folder(folder: Path, plan: Plan, variant: str, seed: int, rate: float | None) -> Path:
    """Where a variant's training lies, with its runs in it."""
    return folder / "runs" / _place(plan, variant, seed, rate)


def _place(plan: Plan, variant: str, seed: int, rate: float | None) -> Path:
    rates = [] if rate is None else [f"rate-{rate:g}"]
    return Path(plan.variants[variant].training, *rates, f"seed-{seed}")


def run_folders(training: Path, plan: Plan, variant: str) -> list[Path]:
    """Folders of the runs of a training, in their order."""
    return [training / f"run-{number}" for number, _ in enumerate(plan.variants[variant].runs, 1)]


def is_trained(run: Path, steps: int) -> bool:
    """Whether a run has its last checkpoint."""
    return (run / FOLDER / checkpoint_name(steps)).is_dir()


def has_diverged(folder: Path, plan: Plan, variant: str, seed: int, rate: float | None) -> bool:
    """Whether a training came to an end by itself; known also where its runs were removed."""
    return diverged_file(folder, plan, variant, seed, rate).is_file()


def diverged_file(folder: Path, plan: Plan, variant: str, seed: int, rate: float | None) -> Path:
    """The file that says so."""
    return folder / "evaluations" / _place(plan, variant, seed, rate) / DIVERGED


def train_variant(
    folder: Path,
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
    if has_diverged(folder, plan, variant, seed, rate):
        return False
    folders = run_folders(training_folder(folder, plan, variant, seed, rate), plan, variant)
    steps = plan.schedules[plan.variants[variant].training].steps
    before: Path | None = None
    for number, run in enumerate(folders):
        if not is_trained(run, steps[number]):
            of = f", run {number + 1} of {len(folders)}" if len(folders) > 1 else ""
            at = "" if rate is None else f", learning rate {rate:g}"
            say(f"training {plan.variants[variant].training}{of}: seed {seed}{at}, to step {steps[number]}")
            config = plan.config(variant, number, seed, rate, run)
            try:
                train_run(run, config, registry, make_reporter(), before)
            except NonFiniteLossError as error:
                file = diverged_file(folder, plan, variant, seed, rate)
                file.parent.mkdir(parents=True, exist_ok=True)
                replace_text(file, f"{error}\n")
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
        before = read_config(run / CONFIG_FILE, registry).config
        # Where the first weights lay is written down whole, and the comparison may have been moved since.
        check_resume(before, begun.model_copy(update={"init_from": before.init_from}), registry)
        finished = resume_run(run, begun, registry, reporter=reporter)
    else:
        finished = start_run(begun, registry, reporter=reporter)
    if finished.training.interrupted:
        raise TrainingInterrupted
