"""Checkpoints: folders that appear complete or not at all, verified when read, without pickles.

RUN/checkpoints/step_00000100/
    weights.safetensors     state dict of the module
    ema.safetensors         the same with averaged weights: all that sampling needs
    optimizer.safetensors   "<state key>/<parameter name>"
    state.json              step, versions, config, statistics, size and SHA-256 of the files above
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dfm_core.errors import CheckpointError

FORMAT = 1
FOLDER = "checkpoints"
STATE_FILE = "state.json"
PARTIAL_PREFIX = ".partial-"
_NAME = re.compile(r"step_(\d+)")


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
        """Return the tensors of one file ("weights", "ema" or "optimizer") on the CPU. Raises CheckpointError."""
        file = self.path / f"{name}.safetensors"
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {file}: {error}") from error


def save_checkpoint(
    run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, object], keep: int
) -> Path:
    """Write RUN/checkpoints/step_<step>, then delete all but the newest `keep` up to it.

    tensors: {"weights": …, "ema": …, "optimizer": …}. state: what else belongs into state.json; tensors there become
    lists. Raises CheckpointError (disk full, no permission); then nothing of it remains and the older ones are whole.
    """
    folder = run / FOLDER
    final = folder / checkpoint_name(step)
    partial = folder / f"{PARTIAL_PREFIX}{final.name}-{os.getpid()}"
    try:
        _remove_partial(folder)
        partial.mkdir(parents=True)
        _write_files(partial, step, tensors, state)
        _put_in_place(partial, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"could not write checkpoint {final}: {error}. Is the disk full?") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    older = [path for path in list_checkpoints(run) if _step_of(path) <= step]
    for path in older[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
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
    raise CheckpointError(f"{run} has no complete checkpoint: {'; '.join(broken)}")


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify one checkpoint folder by size and SHA-256. Raises CheckpointError naming what is wrong."""
    try:
        state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        written_format, files = state["format"], dict(state["files"])
        int(state["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is incomplete: {STATE_FILE} is missing or damaged") from error
    if written_format != FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {written_format}, this version reads {FORMAT}")
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} is incomplete: {name} is missing")
        if _fingerprint(file) != expected:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is not as it was written")
    return Checkpoint(path, state)


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match.group(1)) if match else -1


def _write_files(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, object]
) -> None:
    files = {}
    for name, group in tensors.items():
        file = folder / f"{name}.safetensors"
        save_file(_independent(group), file)
        _flush(file)
        files[file.name] = _fingerprint(file)
    content = {**state, "format": FORMAT, "step": step, "torch": torch.__version__, "files": files}
    file = folder / STATE_FILE
    file.write_text(json.dumps(_plain(content), indent=1), encoding="utf-8")
    _flush(file)
    _flush(folder)


def _independent(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy what safetensors refuses: tensors that share storage (tied weights, views) or are not contiguous."""
    storages: set[int] = set()
    result = {}
    for key, tensor in group.items():
        storage = tensor.untyped_storage()
        shared = storage.data_ptr() in storages or storage.nbytes() != tensor.numel() * tensor.element_size()
        storages.add(storage.data_ptr())
        result[key] = tensor.detach().clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
    return result


def _put_in_place(partial: Path, final: Path) -> None:
    if final.exists():  # damaged, or the run was taken up again before it
        os.replace(final, partial.with_name(f"{partial.name}-replaced"))
    os.replace(partial, final)
    _flush(final.parent)
    _remove_partial(final.parent)


def _remove_partial(folder: Path) -> None:
    for stale in folder.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(stale, ignore_errors=True)


def _fingerprint(file: Path) -> dict[str, object]:
    with file.open("rb") as stream:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that after a power cut no name stands for missing content."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    """Turn tensors, tuples and paths into JSON types, at any depth."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
