"""The folder of a run: what lies where, how it begins and how it is found again."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from dfm_core.errors import CheckpointError, UsageError
from dfm_core.files import put_in_place

FOLDER = "checkpoints"
CONFIG_FILE = "config.yaml"
EXPORTED_FILE = "model.json"
"""What lies in the folder of an exported model."""


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run: config.yaml, metrics.jsonl, status.json, skipped.txt, checkpoints/, samples/, tensorboard/."""

    path: Path

    @staticmethod
    def check_new(path: Path) -> None:
        """Raise UsageError if something lies at `path`."""
        if path.exists():
            raise UsageError(
                f"{path} exists; continue that run with `dfm train --resume {path}`, or choose another --output"
            )

    @classmethod
    def create(cls, path: Path | None, name: str = "run", root: Path = Path("runs")) -> RunDirectory:
        """Make a new run folder: `path`, or `root`/<time>-<name> for None.

        Raises UsageError if `path` exists, or if it cannot be made.
        """
        target = path or _unused(root / f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}")
        cls.check_new(target)
        try:
            target.mkdir(parents=True)
            (target / "samples").mkdir()
            (target / FOLDER).mkdir()
        except OSError as error:
            raise UsageError(f"cannot create the run folder {target}: {error}; choose another --output") from error
        return cls(target)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Return the existing run at `path`. Raises CheckpointError if it is none."""
        if not (path / CONFIG_FILE).is_file() or not (path / FOLDER).is_dir():
            raise CheckpointError(
                f"{path} is not the folder of a run: expected {CONFIG_FILE} and {FOLDER}/ in it; {_advice(path)}"
            )
        return cls(path)

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG_FILE

    @property
    def metrics(self) -> Path:
        """One JSON object a logging step."""
        return self.path / "metrics.jsonl"

    @property
    def status(self) -> Path:
        """Whether it trains, and how it ended."""
        return self.path / "status.json"

    @property
    def skipped(self) -> Path:
        """Samples that were skipped, a line each; absent where there were none."""
        return self.path / "skipped.txt"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints, a folder each."""
        return self.path / FOLDER

    @property
    def samples(self) -> Path:
        """Sample grids."""
        return self.path / "samples"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard events."""
        return self.path / "tensorboard"

    def note_skipped(self, messages: Iterable[str]) -> None:
        """Add lines to those of skipped.txt, sorted, each once."""
        known = self.skipped.read_text(encoding="utf-8").splitlines() if self.skipped.exists() else []
        if lines := sorted({*known, *messages}):
            replace_text(self.skipped, "".join(f"{line}\n" for line in lines))

    def clear_partial_samples(self) -> None:
        """Remove the sample grids that a killed process was writing; for the one that trains now."""
        for stale in self.samples.glob(".*.tmp"):
            with suppress(OSError):
                stale.unlink()

    def write_config(self, config: Mapping[str, object]) -> None:
        """Write config.yaml (JSON types), keys in the given order, replacing an older one in one go."""
        replace_text(self.config, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old content or the new, nothing between."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # others may write the same file
    try:
        partial.write_text(text, encoding="utf-8")
        put_in_place(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _advice(path: Path) -> str:
    if (path / EXPORTED_FILE).is_file():
        return f"it is an exported model: begin a new run with its weights, dfm train --init-from {path}"
    return "give a folder that `dfm train` made (`dfm runs` lists them)"


def _unused(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
