"""What going on with a run needs beside its checkpoint: the same data, and perhaps another folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from dfm_core.composition import DataDescription
from dfm_core.config.resolve import read_config
from dfm_core.errors import CheckpointError
from dfm_core.training.checkpoint import Checkpoint
from dfm_core.training.distributed import World
from dfm_core.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.plugins.registry import Registry


def check_same_data(path: Path, before: DataDescription, now: DataDescription) -> None:
    """Raise CheckpointError if the data is no longer what the run at `path` was trained on, naming what differs."""
    for name in ("classes", "channels", "latents", "other_sizes"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            raise CheckpointError(
                f"{path} was trained on {name} {old}, the data now has {new}; "
                "restore the data that it was trained on, or begin a new run with --init-from"
            )


def new_output(run: RunDirectory, config: RunConfig, registry: Registry) -> str | None:
    """Folder in which the run is to go on, None for where it lies. Raises UsageError if something is there."""
    before = read_config(run.config, registry).config.output
    if config.output is None or config.output == before or Path(config.output).resolve() == run.path.resolve():
        return None
    RunDirectory.check_new(Path(config.output))
    return config.output


def continue_elsewhere(
    world: World, run: RunDirectory, checkpoint: Checkpoint, target: Path
) -> tuple[RunDirectory, Checkpoint]:
    """Copy what a run needs to go on (its checkpoint and its log) to the new folder `target`, once for all."""
    path = target / checkpoint.path.relative_to(run.path)

    def copy() -> None:
        new = RunDirectory.create(target)
        shutil.copytree(checkpoint.path, path)
        if run.metrics.exists():
            shutil.copyfile(run.metrics, new.metrics)
        if run.tensorboard.exists():
            shutil.copytree(run.tensorboard, new.tensorboard)

    world.once(copy)
    return RunDirectory(target), Checkpoint(path, checkpoint.state)
