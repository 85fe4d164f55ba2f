"""Checkpoints that are written while training goes on: the loop waits for a copy in host memory, not for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from dfm_core.errors import CheckpointError
from dfm_core.training.checkpoint import list_checkpoints, plain, save_checkpoint

Groups = Mapping[str, Mapping[str, Tensor]]
Keep = Callable[[str, str, Tensor], Tensor]
"""(group, name, tensor) -> a copy in host memory."""


def in_own_memory(_group: str, _name: str, tensor: Tensor) -> Tensor:
    """Copy a tensor to host memory of its own."""
    return tensor.cpu()


PATIENCE = 3
"""Failures in a row after which a run that has nothing on the disk stops: it would end with nothing."""


class CheckpointWriter:
    """Write a run's checkpoints one after the other; the periodic ones in a thread, if `in_background`.

    warn: told, in the caller's thread, of a periodic one that could not be written. kept: steps whose checkpoints stay
    for good. `save` and `report` raise CheckpointError after three failures in a row of a run that has no checkpoint.
    """

    def __init__(
        self, run: Path, keep: int, in_background: bool, warn: Callable[[str], None], kept: Sequence[int] = ()
    ) -> None:
        self._run, self._keep, self._in_background, self._warn = run, keep, in_background, warn
        self._kept = kept
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._copies = HostCopies()
        self._writing: Future[None] | None = None
        self._written_step: int | None = None
        self._broken_off = threading.Event()
        self._failed = 0

    def keep(self, group: str, name: str, tensor: Tensor) -> Tensor:
        """Copy a tensor that was made for the next checkpoint alone to where `save` would: it is then no second copy.

        Waits for the checkpoint before, whose memory that is.
        """
        self.settle()
        return self._copies.keep(group, name, tensor) if self._in_background else in_own_memory(group, name, tensor)

    def save(self, step: int, tensors: Groups, state: Mapping[str, object]) -> None:
        """Begin to write a checkpoint once the one before is written; afterwards the tensors may change.

        What goes wrong is a warning: here, at the next `report`, or whatever waits first.
        """
        self.settle()
        self._check_hope()
        if self._in_background:
            copies = self._copies.take(tensors)
            self._writing = self._thread.submit(self._write, step, copies, plain(state))
        else:
            self._warn_of(lambda: self._write(step, tensors, state))

    def save_last(self, step: int, tensors: Groups, state: Mapping[str, object]) -> None:
        """Write a checkpoint and wait for it, unless this step has one. Raises CheckpointError."""
        self.settle()
        if self._written_step != step:
            self._write(step, tensors, state)

    def report(self) -> None:
        """Warn if what was begun has failed by now."""
        if self._writing is not None and self._writing.done():
            self.settle()
        self._check_hope()

    def settle(self) -> None:
        """Wait for what was begun."""
        if self._writing is not None:
            self._warn_of(self._writing.result)
            self._writing = None

    def close(self, at_once: bool = False) -> None:
        """Wait for what was begun, and let go of the copies. at_once: break it off, so that nothing of it remains."""
        if at_once:
            self._broken_off.set()
        self.settle()
        self._copies = HostCopies()

    def _write(self, step: int, tensors: Groups, state: Mapping[str, object]) -> None:
        save_checkpoint(self._run, step, tensors, state, self._keep, self._check, self._kept)
        self._written_step = step

    def _check(self) -> None:
        if self._broken_off.is_set():
            raise CheckpointError("a checkpoint was broken off")

    def _warn_of(self, write: Callable[[], None]) -> None:
        try:
            write()
            self._failed = 0
        except (OSError, CheckpointError) as error:
            self._failed += 1
            if not self._broken_off.is_set():
                self._warn(f"{error}; training goes on")

    def _check_hope(self) -> None:
        if self._failed >= PATIENCE and not list_checkpoints(self._run):
            raise CheckpointError(
                f"the last {self._failed} checkpoints could not be written to {self._run} (see the warnings), and it "
                "has none from before: training would end with nothing; make room there, or choose another --output"
            )


class HostCopies:
    """Copies of tensors in host memory, which is kept for the next ones; page-locked where they come from a GPU."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def keep(self, group: str, name: str, tensor: Tensor) -> Tensor:
        """Copy one tensor, and wait for it; `take` leaves the copy as it is."""
        return self._buffer((group, name), tensor).copy_(tensor)

    def take(self, groups: Groups) -> dict[str, dict[str, Tensor]]:
        """Copy all tensors; waits for a GPU once, at the end. The copies are good until the next call."""
        copies = {
            group: {name: self._copy((group, name), tensor.detach()) for name, tensor in tensors.items()}
            for group, tensors in groups.items()
        }
        if any(tensor.is_cuda for tensors in groups.values() for tensor in tensors.values()):
            torch.cuda.synchronize()
        return copies

    def _copy(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        buffer = self._buffer(key, tensor)
        return buffer if buffer.data_ptr() == tensor.data_ptr() else buffer.copy_(tensor, non_blocking=tensor.is_cuda)

    def _buffer(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[key] = buffer
        return buffer
