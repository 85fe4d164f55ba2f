"""How processes that load data start: with one thread each, and deaf to Ctrl-C."""

from __future__ import annotations

import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C to the process that started this worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def starting_processes() -> Iterator[None]:
    """Give processes that start here one thread each, and leave Ctrl-C to this one from their first moment on."""
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    blocked: set[Any] = set()
    if hasattr(signal, "pthread_sigmask"):
        # Started within, the tracker would unblock the signal.
        multiprocessing.resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads
