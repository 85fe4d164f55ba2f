"""Train the toy in a process that is killed at a named point of its second checkpoint. Arguments: folder, points."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from toy_training import make

from dfm_core.training import checkpoint, checkpoint_writer, metrics_log, tensor_file

SETTINGS: dict[str, Any] = {"checkpoint_every": 3, "keep_checkpoints": 1}
KILLED_STEP = 6


def die(*_arguments: object, **_options: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def second(module: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Replace a function of `module` from the second checkpoint on."""
    save, original = checkpoint_writer.save_checkpoint, getattr(module, name)

    def saving(run: Path, step: int, *rest: Any) -> Path:
        if step == KILLED_STEP:
            setattr(module, name, lambda *arguments: replacement(original, *arguments))
        return save(run, step, *rest)

    checkpoint_writer.save_checkpoint = saving


def at_once(*_arguments: object) -> Any:
    die()


def in_a_file(original: Callable[..., Any], path: Path, tensors: Any, _check: Any) -> Any:
    """Die when a part of the second file is written."""
    pieces: list[int] = []

    def check() -> None:
        pieces.append(1)
        if path.name == "ema.safetensors" and len(pieces) == 4:
            die()

    tensor_file.PIECE = 64
    return original(path, tensors, check)


def in_deletion(_original: Callable[..., Any], path: Path) -> None:
    """Die when one file of an old checkpoint is deleted."""
    aside = checkpoint._set_aside(path)
    (aside / "ema.safetensors").unlink()
    die()


def in_a_line(_point: str) -> None:
    """Die in the middle of a line of metrics.jsonl, with a whole checkpoint before it."""

    def write(log: metrics_log.MetricsLog, step: int, values: Any) -> None:
        if step < 8:
            return original(log, step, values)
        while not (log._run.checkpoints / checkpoint.checkpoint_name(KILLED_STEP)).exists():
            time.sleep(0.01)
        with log._run.metrics.open("a") as stream:
            stream.write('{"step": 8, "lo')
        die()

    original = metrics_log.MetricsLog.write
    metrics_log.MetricsLog.write = write  # type: ignore[method-assign]


POINTS: dict[str, tuple[Callable[[str], None], int]] = {
    "before the write": (lambda _: second(checkpoint, "_remove_partial", at_once), 3),
    "in the middle of a file": (lambda _: second(checkpoint, "write_tensors", in_a_file), 3),
    "before state.json": (lambda _: second(checkpoint, "_sealed", at_once), 3),
    "before the rename": (lambda _: second(checkpoint, "_put_in_place", at_once), 3),
    "after the rename": (lambda _: second(checkpoint, "list_checkpoints", at_once), 6),
    "while the old one is deleted": (lambda _: second(checkpoint, "_remove", in_deletion), 6),
    "in a line of the log": (in_a_line, 6),
}
"""Point -> (what makes this process end there, step of the newest whole checkpoint then)."""


def main(folder: Path) -> None:
    """Train once for every point, each in a process of its own."""
    for point, (prepare, _) in POINTS.items():
        child = os.fork()
        if child == 0:
            prepare(point)
            make(folder / point, **SETTINGS).train()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(point, os.WTERMSIG(status) if os.WIFSIGNALED(status) else "lived", sep=": ")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
