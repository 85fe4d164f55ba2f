"""What is told of a run's steps, and to whom: losses, speed and use of the machine, to the log and the reporter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from dfm_core.errors import NonFiniteLossError
from dfm_core.loss_report import LossReport
from dfm_core.training.clock import Item, StepClock
from dfm_core.training.distributed import World
from dfm_core.training.loss_window import LossWindow
from dfm_core.training.metrics_log import PROVISIONAL, MetricsLog
from dfm_core.training.progress import Reporter, StepReport
from dfm_core.training.utilisation import DeviceQueue, begin_peak_memory, matmul_rate, peak_memory


class StepLog:
    """Collect what the steps yield, without waiting for the device, and tell it when asked.

    metrics: where the lines go, written by the first process only. images: of a step, over all processes. flops: of
    forward and backward of a step of all processes, or None; dtype: in which they are computed. kept: says, after a
    loss that is no number, which checkpoint remains.
    """

    def __init__(
        self,
        metrics: MetricsLog,
        reporter: Reporter,
        world: World,
        device: torch.device,
        dtype: torch.dtype,
        images: int,
        flops: int | None,
        kept: Callable[[], str],
    ) -> None:
        self._metrics, self._reporter, self._world = metrics, reporter, world
        self._device, self._dtype, self._images, self._flops = device, dtype, images, flops
        self._kept = kept
        self._window, self._clock, self._queue = LossWindow(world), StepClock(), DeviceQueue(device)
        self.last_loss = math.nan

    def open(self, finished_steps: int) -> None:
        """Begin, or go on, after `finished_steps`."""
        if self._world.is_first:
            self._metrics.open(finished_steps)
            if self._flops:
                matmul_rate(self._device, self._dtype)  # measured before the first step, not beside one
        begin_peak_memory(self._device)

    def close(self, failed: bool) -> None:
        """Write out what is held back. failed: the run ends by an error."""
        self._metrics.close(failed=failed)

    def arriving(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches, and count how long the device waited for them."""
        return self._clock.waiting(batches, self._queue.is_empty)

    def append(self, report: LossReport, gradient_norm: Tensor) -> None:
        """Add a step that was given to the device."""
        self._window.append(report, gradient_norm)
        self._queue.mark()

    def read(self) -> None:
        """Fetch the losses from the device: the only place that waits for it. Raises NonFiniteLossError."""
        try:
            self._window.read()
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"{error}. Training stopped; {self._world.once(self._kept)}. Try a lower learning rate, a longer "
                "warm-up, or precision=float32"
            ) from None
        if len(self._window):
            self.last_loss = self._window.last[0]

    def paused(self) -> AbstractContextManager[None]:
        """Leave the time inside out of that of the steps."""
        return self._clock.paused()

    def tell_first(self, step: int) -> None:
        """Tell the reporter of a run's first step, which is no line of the log."""
        self.read()
        self._clock.lap(step)
        self._reporter.log(StepReport(step, *self._window.averages()))

    def write_line(self, step: int, learning_rate: float, norms: Mapping[str, float], last: bool = False) -> None:
        """Tell of the steps since the last line. last: the run ends here, between two lines."""
        self.read()
        if last and not len(self._window):
            return
        self._clock.lap(step)
        loss, parts = self._window.averages()
        seconds = self._clock.seconds_per_step
        speed = self._images / seconds if seconds else None
        self._reporter.log(StepReport(step, loss, parts, speed, seconds))
        values = {
            "loss": loss,
            "parts": parts,
            "loss_by_t": self._window.averages_by_t(),
            "learning_rate": learning_rate,
            "grad_norm": self._window.last[1],
            "grad_norms": norms,
            "images_per_second": speed,
            "utilisation": self._utilisation(seconds),
            "data_wait": self._clock.waiting_share,
            "peak_memory": peak_memory(self._device),
            "seconds": self._clock.seconds,
        }
        self.write(step, {**values, PROVISIONAL: True} if last else values)
        if not last:
            self._window.restart(step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line of other numbers."""
        if self._world.is_first:
            with self.going_on():
                self._metrics.write(step, values)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """A file that cannot be written on the way (the disk is full) is a warning."""
        try:
            yield
        except OSError as error:
            self._reporter.warn(f"{error}; training goes on")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: a resumed run logs the same averages as one that never stopped."""
        return {"seconds": self._clock.seconds, "last_loss": self.last_loss, "window": self._window.state()}

    def begin(self, state: Mapping[str, Any] | None) -> None:
        """Put back what `state` returned; None for a new run."""
        if state is not None:
            self._window.load(state["window"])
            self.last_loss = float(state["last_loss"])
        self._clock.begin(0.0 if state is None else float(state["seconds"]))

    def _utilisation(self, seconds: float | None) -> float | None:
        """Share of the rate of a large matrix product that the network reaches, on all processes."""
        if not self._flops or not seconds or not self._world.is_first:
            return None
        return self._flops / (seconds * matmul_rate(self._device, self._dtype) * self._world.size)
