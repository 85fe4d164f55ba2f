"""Checkpoints: folders that appear complete or not at all, verified when read, without pickles.

RUN/checkpoints/step_00000100/
    weights.safetensors     state dict of the module
    ema.safetensors         the same with averaged weights: all that sampling needs
    optimizer.safetensors   "<state key>/<parameter name>"
    state.json              step, versions, config, statistics, size and SHA-256 of the files above, and its own
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dfm_core.errors import CheckpointError
from dfm_core.files import flush
from dfm_core.training.run_directory import CONFIG_FILE
from dfm_core.training.run_directory import FOLDER as FOLDER
from dfm_core.training.tensor_file import write_tensors

FORMAT = 2
GROUPS = ("weights", "ema", "optimizer")
"""What the files with tensors may be called; nothing else of a checkpoint is ever opened."""
STATE_FILE = "state.json"
PARTIAL_PREFIX = ".partial-"
_NAME = re.compile(r"step_(\d+)")
_NO_SEAL = "0" * 64


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. state: the content of state.json, JSON types only. Tensors are read when asked for."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Finished optimiser steps."""
        return int(self.state["step"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one of GROUPS on the CPU. Raises CheckpointError."""
        file = self.path / f"{name}.safetensors"
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {file}: {error}") from error


def save_checkpoint(
    run: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, object],
    keep: int,
    check: Callable[[], None] = lambda: None,
    kept: Sequence[int] = (),
) -> Path:
    """Write RUN/checkpoints/step_<step>, then delete all but the newest `keep` up to it and those of the steps `kept`.

    tensors: {"weights": …, "ema": …, "optimizer": …}. state: what else belongs into state.json; tensors there become
    lists. check is called on the way, and what it raises ends the writing. Raises CheckpointError (disk full, no
    permission). Whatever is raised, nothing of it remains and the older ones are whole.
    """
    folder = run / FOLDER
    final = folder / checkpoint_name(step)
    partial = folder / f"{PARTIAL_PREFIX}{final.name}-{os.getpid()}"
    try:
        _remove_partial(folder)
        partial.mkdir(parents=True)
        _write_files(partial, step, tensors, state, check)
        _put_in_place(partial, final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"could not write checkpoint {final}: {error}. Is the disk full?") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    older = [path for path in list_checkpoints(run) if _step_of(path) <= step and _step_of(path) not in kept]
    for path in older[:-keep]:
        _remove(path)
    return final


def checkpoint_name(step: int) -> str:
    """Name of a checkpoint's folder: 100 -> "step_00000100"."""
    return f"step_{step:08d}"


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first, complete or not."""
    return sorted((path for path in (run / FOLDER).glob("step_*") if _NAME.fullmatch(path.name)), key=_step_of)


def load_newest(run: Path) -> tuple[Checkpoint, list[str]]:
    """Return the newest complete checkpoint of a run, and one message for each newer one that was passed over.

    Raises CheckpointError if `run` is no run or has no complete checkpoint.
    """
    paths = list_checkpoints(run)
    if not paths:
        no_run = "is not the folder of a run (or, for loading, of an exported model)"
        what = "has no checkpoint yet" if (run / FOLDER).is_dir() else no_run
        raise CheckpointError(f"{run} {what}: expected {run / FOLDER / checkpoint_name(100)} or the like")
    broken = []
    for path in reversed(paths):
        try:
            checkpoint = open_checkpoint(path)
        except CheckpointError as error:
            broken.append(str(error))
            continue
        return checkpoint, [f"{reason}; using the older {path.name}" for reason in broken]
    raise CheckpointError(
        f"{run} has no complete checkpoint: {'; '.join(broken)}. Put the files back from a copy, or train anew: "
        f"dfm train --config {run / CONFIG_FILE} --output NEW"
    )


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify one checkpoint folder by size and SHA-256. Raises CheckpointError naming what is wrong."""
    state = _read_state(path)
    for name, expected in state["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} is incomplete: {name} is missing")
        if _fingerprint(file) != expected:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is not as it was written")
    return Checkpoint(path, state)


def plain(value: Any) -> Any:
    """Copy a value with its tensors, tuples and paths as JSON types, at any depth."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _read_state(path: Path) -> dict[str, Any]:
    try:
        content = (path / STATE_FILE).read_bytes()
        state = json.loads(content)
        written_format = state["format"]
        sealed = written_format != FORMAT or _digest(content, state["sha256"]) == state["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} is incomplete: {STATE_FILE} is missing or damaged") from error
    if written_format != FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {written_format}, this version reads {FORMAT}")
    if not sealed:
        raise CheckpointError(f"checkpoint {path} is damaged: {STATE_FILE} is not as it was written")
    unknown = sorted(set(state["files"]) - {f"{name}.safetensors" for name in GROUPS})
    if unknown:
        raise CheckpointError(f"checkpoint {path} names files that belong to none: {', '.join(map(repr, unknown))}")
    return dict(state)


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match.group(1)) if match else -1


def _write_files(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, object],
    check: Callable[[], None],
) -> None:
    files = {}
    for name, group in tensors.items():
        file = folder / f"{name}.safetensors"
        files[file.name] = write_tensors(file, group, check)
    content = {**plain(state), "format": FORMAT, "step": step, "torch": torch.__version__, "files": files}
    file = folder / STATE_FILE
    file.write_bytes(_sealed(content))
    flush(file)
    flush(folder)


def _sealed(content: Mapping[str, object]) -> bytes:
    """JSON that holds, first, its own SHA-256, computed with zeros in the place of it."""
    text = json.dumps({"sha256": _NO_SEAL, **content}, indent=1).encode()
    return text.replace(_NO_SEAL.encode(), _digest(text, _NO_SEAL).encode(), 1)


def _digest(content: bytes, seal: str) -> str:
    return hashlib.sha256(content.replace(seal.encode(), _NO_SEAL.encode(), 1)).hexdigest()


def _put_in_place(partial: Path, final: Path) -> None:
    if final.exists():  # damaged, or the run was taken up again before it
        _set_aside(final)
    os.replace(partial, final)
    flush(final.parent)
    _remove_partial(final.parent)


def _remove(path: Path) -> None:
    """Delete a checkpoint; not under its name, so that what is left of it after a crash is no checkpoint."""
    with suppress(OSError):
        shutil.rmtree(_set_aside(path), ignore_errors=True)


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{PARTIAL_PREFIX}{path.name}-{os.getpid()}-old")
    os.replace(path, aside)
    return aside


def _remove_partial(folder: Path) -> None:
    for stale in folder.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(stale, ignore_errors=True)


def _fingerprint(file: Path) -> dict[str, object]:
    with file.open("rb") as stream:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
