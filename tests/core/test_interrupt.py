"""SIGINT and SIGTERM: a flag first, KeyboardInterrupt second, and the old handlers afterwards."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from dfm_core.training.interrupt import Stopped, catch_interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_sets_the_flag_and_tells(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with catch_interrupts() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
    assert "Stopping after this step" in capfd.readouterr().err


def test_second_signal_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), catch_interrupts() as interrupt:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), catch_interrupts():  # noqa: PT012
        assert signal.getsignal(signal.SIGTERM) != before[1]
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_ignored_signals_are_heard_and_ignored_again() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in `dfm train &` in a script
    try:
        with catch_interrupts() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupt.requested
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_works_off_the_main_thread() -> None:
    seen: list[bool] = []

    def run() -> None:
        with catch_interrupts() as interrupt:
            seen.append(interrupt.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]


def test_work_that_may_be_left_undone_ends_at_once() -> None:
    with catch_interrupts() as interrupt:
        with pytest.raises(Stopped), interrupt.stopping():
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
        assert not interrupt.stops_at_once
