"""Ctrl-C and SIGTERM as a flag, so that a run can finish its step and write a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

NOTICE = b"\nStopping after this step, with a checkpoint. Once more stops at once, without one.\n"


class Stopped(BaseException):
    """Ends a block inside `Interrupt.stopping`; no Exception, so that nothing on the way takes it for a failure."""


@dataclass
class Interrupt:
    """Whether the user, or the system, has asked the run to stop."""

    requested: bool = False
    stops_at_once: bool = False

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Inside, for work that may be left undone, the first signal also raises Stopped."""
        self.stops_at_once = True
        try:
            yield
        finally:
            self.stops_at_once = False


@contextmanager
def catch_interrupts(notice: bool = True) -> Iterator[Interrupt]:
    """Turn the first SIGINT or SIGTERM into `Interrupt.requested`; a second one raises KeyboardInterrupt at once.

    notice: say on stderr that it was heard. The handlers that were there come back afterwards. Off the main thread,
    where Python allows no handlers, nothing is caught.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True
        if notice:
            with suppress(OSError):  # os.write: a handler may not re-enter buffered streams
                os.write(2, NOTICE)
        if interrupt.stops_at_once:
            raise Stopped

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
