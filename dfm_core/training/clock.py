"""Time of a run: what a step takes without compilation, checkpoints and sampling, and what has passed in all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class StepClock:
    """Measure steps between laps; the caller reads results from the device before each lap and pause."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._begin = now()
        self._before = 0.0
        self._lap: float | None = None
        self._lap_step = 0
        self._waited = 0.0
        self.seconds_per_step: float | None = None
        """Over the last lap; None until the first one."""
        self.waiting_share: float | None = None
        """Share of the last lap in which `waiting` waited; None until the first one."""

    def begin(self, seconds_before: float) -> None:
        """The run begins; `seconds_before` passed before it was interrupted."""
        self._begin, self._before, self._lap = self._now(), seconds_before, None

    @property
    def seconds(self) -> float:
        """Seconds of training in all, earlier parts of the run included."""
        return self._before + self._now() - self._begin

    def lap(self, step: int) -> None:
        """`step` steps are finished. The first call (after the step that compiles) only starts the measurement."""
        now = self._now()
        if self._lap is not None and step > self._lap_step:
            passed = now - self._lap
            self.seconds_per_step = passed / (step - self._lap_step)
            self.waiting_share = min(1.0, self._waited / passed) if passed > 0 else None
        self._lap, self._lap_step, self._waited = now, step, 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time spent inside."""
        start = self._now()
        try:
            yield
        finally:
            if self._lap is not None:
                self._lap += self._now() - start

    def waiting(self, items: Iterable[Item], is_idle: Callable[[], bool] = lambda: True) -> Iterator[Item]:
        """Yield `items` and count the time until each is there, unless the device was busy all the while.

        is_idle: whether the device has nothing to do, asked when an item is there.
        """
        iterator = iter(items)
        while True:
            start = self._now()
            try:
                item = next(iterator)
            except StopIteration:
                return
            if is_idle():
                self._waited += self._now() - start
            yield item
