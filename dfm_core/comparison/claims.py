"""Several processes at one comparison: each training belongs to the process that works at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from dfm_core.errors import DFMError

Job = TypeVar("Job")

LOCK = "working.lock"
"""Lies in the folder of a training; who works at it, holds it. The system lets go of it when a process ends."""
PAUSE = 1.0
"""Seconds between two looks at what other processes hold."""


@contextmanager
def claimed(training: Path) -> Iterator[bool]:
    """Claim the folder of a training until the end of the block; yield False where another process holds it.

    Makes the folder. Raises DFMError where it cannot be written.
    """
    lock = FileLock(training / LOCK)
    try:
        training.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise DFMError(f"cannot write into {training}: {error.strerror}; choose another --output") from error
    except NotImplementedError:  # a file system without locks: one process may work there all the same
        pass
    try:
        yield True
    finally:
        lock.release()


def share(
    jobs: Iterable[Job],
    work: Callable[[Job], bool],
    waits: Callable[[list[Job]], None],
    pause: float = PAUSE,
) -> None:
    """Do the jobs that no other process is at, in their order, and wait for the others; take up what those leave.

    work: does a job, unless another process is at it: then False. waits(jobs): before a wait, when they are new.
    """
    left, waited_for = list(jobs), list[Job]()
    while left:
        before = left
        left = [job for job in left if not work(job)]
        if left and left != waited_for and len(left) == len(before):
            waits(left)
            waited_for = left
        if left:
            time.sleep(pause)
