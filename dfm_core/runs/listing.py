"""What the folders of runs say: state, progress, last losses. Reads files only, and of long ones only the end."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dfm_core.config.sizes import parse_stages, write_stages
from dfm_core.errors import UsageError
from dfm_core.runs.status import RunState, RunStatus, read_status
from dfm_core.training.run_directory import CONFIG_FILE, FOLDER, RunDirectory

SIGN_OF_LIFE = 15 * 60.0
"""Seconds after its last written line for which a process on another machine is taken to live."""
DEEPEST = 3
"""Levels of folders that are searched for runs."""
_TAIL = 2**16
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class RunSummary:
    """One run at a glance; None for what is not known (yet).

    step: of the newest line or checkpoint. loss, images_per_second: of the newest line. age: seconds since the run last
    wrote a line, a checkpoint or its end. error: why it failed.
    """

    path: str
    state: RunState
    step: int
    max_steps: int | None
    loss: float | None
    images_per_second: float | None
    age: float
    decomposition: str | None
    stages: str | None
    error: str | None


def list_runs(folder: Path) -> list[RunSummary]:
    """Summaries of the runs in `folder` and in its sub-folders, the last active first; or of `folder`, if it is a run.

    Raises UsageError if there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; expected one with runs in it, such as runs")
    return sorted((summarise(RunDirectory(path)) for path in find_runs(folder)), key=lambda summary: summary.age)


def find_runs(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Folders of runs at or below `folder`; what lies inside a run, or is hidden, is not searched."""
    if (folder / CONFIG_FILE).is_file() and (folder / FOLDER).is_dir():
        yield folder
    elif depth < DEEPEST:
        with suppress(OSError), os.scandir(folder) as entries:
            inner = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
            for name in inner:
                yield from find_runs(folder / name, depth + 1)


def summarise(run: RunDirectory) -> RunSummary:
    """Read what a run's folder says of it; what cannot be read is left open."""
    config, line, checkpoint = _config(run), last_line(run), _newest_checkpoint(run)
    step = max(int(line.get("step", 0)), checkpoint)
    max_steps = _value(config, "training", "max_steps")
    age = max(0.0, time.time() - _last_written(run))
    status = read_status(run)
    state = state_of(status, step, max_steps, age)
    return RunSummary(
        path=str(run.path),
        state=state,
        step=step,
        max_steps=max_steps,
        loss=line.get("loss"),
        images_per_second=line.get("images_per_second"),
        age=age,
        decomposition=_value(config, "decomposition", "name"),
        stages=stages_text(config.get("stages")),
        error=status.error if status and state == "failed" else None,
    )


def state_of(status: RunStatus | None, step: int, max_steps: int | None, age: float) -> RunState:
    """State of a run, also of one that was killed, or whose status is missing or was left by a process that is gone."""
    if status and status.state != "training":
        return status.state
    lives = status.process.lives() if status else None
    if lives or (lives is None and age < SIGN_OF_LIFE and (status or step != max_steps)):
        return "training"
    return "finished" if max_steps is not None and step >= max_steps else "interrupted"


def last_line(run: RunDirectory) -> dict[str, Any]:
    """The newest line of metrics.jsonl that has a loss; empty without one."""
    try:
        with run.metrics.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            lines = stream.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "loss" in entry:
                return entry
    return {}


def stages_text(stages: object) -> str | None:
    """Stages of a config.yaml as on the command line; None for what is no list of sizes."""
    try:
        return write_stages(parse_stages(stages))
    except ValueError:
        return None


def _config(run: RunDirectory) -> dict[str, Any]:
    with suppress(OSError, ValueError, yaml.YAMLError):
        config = yaml.load(
            run.config.read_text(encoding="utf-8"), Loader=_Loader
        )  # a safe loader, in C if there is one
        return config if isinstance(config, dict) else {}
    return {}


def _value(config: dict[str, Any], section: str, key: str) -> Any:
    values = config.get(section)
    return values.get(key) if isinstance(values, dict) else None


def _newest_checkpoint(run: RunDirectory) -> int:
    with suppress(OSError):
        found = [re.fullmatch(r"step_(\d+)", name) for name in os.listdir(run.checkpoints)]
        return max((int(match[1]) for match in found if match), default=0)
    return 0


def _last_written(run: RunDirectory) -> float:
    times = []
    for path in (run.metrics, run.status, run.checkpoints, run.config):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)
