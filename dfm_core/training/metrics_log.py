"""metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dfm_core.training.run_directory import RunDirectory, replace_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PROVISIONAL = "provisional"
"""Marks the line of a run's last steps where it ends between two logging steps; taken back on resume."""


class MetricsLog:
    """Append one JSON object a call to metrics.jsonl, and the same numbers to TensorBoard."""

    def __init__(self, run: RunDirectory, tensorboard: bool) -> None:
        self._run = run
        self._tensorboard = tensorboard
        self._writer: SummaryWriter | None = None

    def open(self, finished_steps: int) -> None:
        """Continue after `finished_steps`: later lines, left by a run that was cut off, are dropped."""
        if self._run.metrics.exists():
            replace_text(self._run.metrics, "".join(_kept_lines(self._run, finished_steps)))
        if self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # a fifth of a second, and only here

            self._writer = SummaryWriter(str(self._run.tensorboard), purge_step=finished_steps + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append {"step": step, **values}; nested mappings are groups, non-finite numbers become null.

        Raises OSError, for instance when the disk is full.
        """
        with self._run.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **_finite(values)}) + "\n")
        if self._writer:
            for tag, value in _flat(values):
                self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        if self._writer:
            self._writer.close()
            self._writer = None


def read_metrics(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, a line that was cut off left out; empty without the file."""
    return [entry for _, entry in _entries(run)] if run.metrics.exists() else []


def _entries(run: RunDirectory) -> list[tuple[str, dict[str, Any]]]:
    result = []
    for line in run.metrics.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:  # the process ended, or the disk was full, in the middle of a line
            continue
        if isinstance(entry, dict) and line.endswith("\n"):
            result.append((line, entry))
    return result


def _kept_lines(run: RunDirectory, finished_steps: int) -> list[str]:
    return [line for line, e in _entries(run) if e.get("step", 0) <= finished_steps and PROVISIONAL not in e]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers with their TensorBoard tags: {"loss": 1, "parts": {"a": 2}} -> loss, parts/a."""
    result: list[tuple[str, float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            result += _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            result.append((prefix + key, float(value)))
    return result
