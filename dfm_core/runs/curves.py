"""The curves of runs: their numbers by name, and which of them a picture of several runs shows. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dfm_core.errors import DFMError, UsageError, suggest
from dfm_core.training.metrics_log import flat_numbers, read_metrics
from dfm_core.training.run_directory import RunDirectory

BY_T = "loss_by_t"
DEFAULT_KEYS = ("loss", "parts", "validation/loss", "grad_norm", "images_per_second", BY_T)

Curve = list[tuple[int, float]]
"""Steps and values, in the order of the steps."""


@dataclass(frozen=True)
class RunCurves:
    """A run's numbers. curves: by name, such as "loss" or "parts/stage_1". by_t: of each part, by the middle of t."""

    name: str
    curves: dict[str, Curve]
    by_t: dict[str, dict[float, Curve]]

    def has(self, key: str) -> bool:
        """Whether there is a curve of this name, or, for "loss_by_t/<part>", a chart."""
        group, _, part = key.partition("/")
        return part in self.by_t if group == BY_T else key in self.curves


@dataclass(frozen=True)
class Selection:
    """What is drawn: names, in order; and what is not, with the runs that lack it."""

    keys: list[str]
    left_out: dict[str, list[str]]


def read_runs(paths: Sequence[Path]) -> list[RunCurves]:
    """Read the curves of runs, each once, under the shortest names that tell them apart.

    Raises CheckpointError for what is no run, DFMError for a run without numbers.
    """
    paths = list({path.resolve(): path for path in paths}.values())
    return [read_curves(RunDirectory.open(path), name) for path, name in zip(paths, short_names(paths), strict=True)]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as few as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    length = next(n for n in range(1, max(map(len, parts)) + 1) if len({p[-n:] for p in parts}) == len(parts))
    return ["/".join(p[-length:]).lstrip("/") for p in parts]


def read_curves(run: RunDirectory, name: str) -> RunCurves:
    """Read metrics.jsonl. Raises DFMError if it holds no numbers yet."""
    curves: dict[str, Curve] = {}
    by_t: dict[str, dict[float, Curve]] = {}
    for entry in read_metrics(run):
        step = int(entry.get("step", 0))
        for key, value in flat_numbers(entry):
            group, _, rest = key.partition("/")
            if group == BY_T:
                part, _, t = rest.rpartition("/")
                by_t.setdefault(part, {}).setdefault(float(t), []).append((step, value))
            elif key != "step":
                curves.setdefault(key, []).append((step, value))
    if not curves:
        raise DFMError(
            f"{run.path} has no numbers yet: the first line of {run.metrics.name} comes after logging.log_every steps"
        )
    return RunCurves(name, curves, by_t)


def select(runs: Sequence[RunCurves], asked: Sequence[str] | None) -> Selection:
    """Choose what to draw. asked: names, or first parts of names for all that begin so; None for the usual ones.

    What was asked for is drawn for the runs that have it; of the usual, only what all runs share. Raises UsageError
    for a name that no run has.
    """
    known = list(dict.fromkeys(key for run in runs for key in all_keys(run)))
    keys = list(dict.fromkeys(key for name in asked or DEFAULT_KEYS for key in _matching(name, known, bool(asked))))
    lacking = {key: [run.name for run in runs if not run.has(key)] for key in keys}
    left_out = {key: names for key, names in lacking.items() if names}
    if asked is None:
        keys = [key for key in keys if key not in left_out]
        if not keys:
            raise UsageError(
                f"these runs share none of the curves that are usually drawn: choose with --keys, from {_listed(known)}"
            )
    return Selection(keys, left_out)


def all_keys(run: RunCurves) -> list[str]:
    """Everything of a run that can be drawn."""
    return [*run.curves, *(f"{BY_T}/{part}" for part in run.by_t)]


def _matching(name: str, known: Sequence[str], must_exist: bool) -> list[str]:
    found = [key for key in known if key == name or key.startswith(f"{name}/")]
    if not found and must_exist:
        groups = {key.partition("/")[0] for key in known}
        raise UsageError(f"no run has {name!r}.{suggest(name, {*known, *groups})} There is {_listed(known)}")
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
