"""metrics.jsonl, and the same numbers for TensorBoard and other sinks."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from dfm_core.config.settings import LoggingSettings
from dfm_core.errors import DFMError
from dfm_core.training.run_directory import RunDirectory, replace_text
from dfm_core.training.sinks import Sink, TensorBoardSink, open_sink

PROVISIONAL = "provisional"
"""Marks the line of a run's last steps where it ends between two logging steps; taken back on resume."""


class MetricsLog:
    """Append one JSON object a call to metrics.jsonl, and send the same numbers to the sinks.

    warn: told when a sink fails; it is tried again at every line. config: what other services show beside the numbers.
    """

    def __init__(
        self,
        run: RunDirectory,
        settings: LoggingSettings,
        config: object = None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._run, self._settings, self._warn = run, settings, warn
        self._config = config if isinstance(config, Mapping) else {}
        self._sinks: dict[str, Sink] = {}
        self._failing: set[str] = set()
        self._sent = 0

    def open(self, finished_steps: int) -> None:
        """Continue after `finished_steps`: later lines, left by a run that was cut off, are dropped.

        Raises DFMError if a sink cannot be opened for a new run; one that goes on goes on without it.
        """
        if self._run.metrics.exists():
            entries = _entries(self._run)
            # What a service was sent it cannot give back; these steps are not sent again.
            self._sent = max((entry.get("step", 0) for _, entry in entries), default=0)
            replace_text(self._run.metrics, "".join(_kept_lines(entries, finished_steps)))
        if self._settings.tensorboard:
            self._sinks["TensorBoard"] = TensorBoardSink(self._run.tensorboard, finished_steps + 1)
        for name in dict.fromkeys(self._settings.sinks):
            try:
                self._sinks[name] = open_sink(name, self._run, self._settings, self._config)
            except Exception as error:
                message = f"{name} cannot be opened ({_first_line(error)})"
                if finished_steps == 0:
                    raise DFMError(f"{message}; without it, leave it out of logging.sinks") from error
                self._warn(f"{message}; training goes on without it")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append {"step": step, **values}; nested mappings are groups, non-finite numbers become null.

        Raises OSError, for instance when the disk is full.
        """
        line = (json.dumps({"step": step, **_finite(values)}) + "\n").encode()
        with self._run.metrics.open("ab", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            if stream.write(line) < len(line):
                stream.truncate(end)  # else the next line would go on in the middle of this one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._run.metrics))
        numbers = dict(flat_numbers(values))
        for name, sink in self._sinks.items():
            if step > self._sent or isinstance(sink, TensorBoardSink):
                self._send(name, sink, step, numbers)

    def _send(self, name: str, sink: Sink, step: int, numbers: Mapping[str, float]) -> None:
        try:
            sink.write(step, numbers)
            self._failing.discard(name)
        except Exception as error:
            if name not in self._failing:
                self._warn(f"{name} fails ({_first_line(error)}); training goes on and tries it again at every line")
            self._failing.add(name)

    def close(self, failed: bool = False) -> None:
        """Write out what the sinks still hold. failed: the run ends by an error."""
        sinks, self._sinks = self._sinks, {}
        for name, sink in sinks.items():
            try:
                sink.close(failed)
            except Exception as error:
                self._warn(f"{name} could not be closed ({_first_line(error)}); its last numbers may be missing")


def read_metrics(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, a line that was cut off left out; empty without the file."""
    return [entry for _, entry in _entries(run)] if run.metrics.exists() else []


def flat_numbers(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers with the names that sinks know them by: {"loss": 1, "parts": {"a": 2}} -> loss, parts/a."""
    result: list[tuple[str, float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            result += flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            result.append((prefix + key, float(value)))
    return result


def _entries(run: RunDirectory) -> list[tuple[str, dict[str, Any]]]:
    return _parsed(run.metrics.read_text(encoding="utf-8"))


def _parsed(text: str) -> list[tuple[str, dict[str, Any]]]:
    result = []
    for line in text.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:  # the process ended, or the disk was full, in the middle of a line
            continue
        if isinstance(entry, dict) and line.endswith("\n"):
            result.append((line, entry))
    return result


def _kept_lines(entries: list[tuple[str, dict[str, Any]]], finished_steps: int) -> list[str]:
    return [line for line, e in entries if e.get("step", 0) <= finished_steps and PROVISIONAL not in e]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
