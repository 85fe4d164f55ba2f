"""Ctrl-C and SIGTERM outside the training loop: what is half made is cleared away, a line, exit code 130."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
NOTICE = "interrupted; nothing is left half written"


def say_interrupted() -> None:
    """Say it on stderr, with --quiet too."""
    print(NOTICE, file=sys.stderr, flush=True)


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM, which clusters send, as Ctrl-C: what is half written is cleared away.

    Off the main thread, where Python allows no handlers, nothing changes; nor where whoever started the process has
    switched SIGTERM off.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
