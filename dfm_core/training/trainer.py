"""The loop: batches -> learner, with a log, checkpoints, evaluations and a way to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dfm_core.config.settings import LoggingSettings, TrainingSettings
from dfm_core.errors import CheckpointError, DataError, NonFiniteLossError
from dfm_core.training.checkpoint import Checkpoint, list_checkpoints, save_checkpoint
from dfm_core.training.clock import StepClock
from dfm_core.training.execution import deterministic_kernels, isolated_random_state
from dfm_core.training.interrupt import Interrupt, Stopped, catch_interrupts
from dfm_core.training.learner import Batch, Learner, Objective
from dfm_core.training.loss_window import LossWindow
from dfm_core.training.metrics_log import PROVISIONAL, MetricsLog
from dfm_core.training.optimizer import learning_rate
from dfm_core.training.progress import QuietReporter, Reporter, StepReport
from dfm_core.training.run_directory import RunDirectory


class BatchSource(Protocol):
    """Batches as a pure function of the step: nothing about the position in the data needs saving."""

    def batches(self, start_step: int) -> Iterable[Batch]:
        """Yield the batches of steps start_step, start_step + 1, … without end; every tensor (B, ...)."""


@dataclass(frozen=True)
class TrainingResult:
    """How training ended. last_loss: of the last step. checkpoint: the newest."""

    step: int
    interrupted: bool
    last_loss: float
    checkpoint: Path


@dataclass(eq=False)
class Trainer:
    """Minimise `objective(batch, randomness)` over the parameters of `module`.

    Step i (from 0) takes a run from i to i + 1 finished steps; all that is random in it derives from (seed, i), so a
    resumed run equals one that never stopped (bit for bit on a CPU; on CUDA with `settings.deterministic`).

    snapshot: what else the state.json of every checkpoint holds, key by key: config, plugin versions, statistics (not
    the reserved keys training, format, step, torch, files). on_samples(finished steps) and
    validate() -> {name: value} run with the averaged weights in eval mode, in the precision of training.
    """

    module: nn.Module
    objective: Objective
    data: BatchSource
    settings: TrainingSettings
    logging: LoggingSettings
    run: RunDirectory
    device: torch.device
    seed: int
    snapshot: Mapping[str, object]
    on_samples: Callable[[int], None] | None = None
    validate: Callable[[], dict[str, float]] | None = None
    reporter: Reporter = field(default_factory=QuietReporter)

    def __post_init__(self) -> None:
        self._learner = Learner(self.module, self.objective, self.settings, self.device, self.seed)
        self._window, self._clock, self._last_loss = LossWindow(), StepClock(), math.nan
        self._log = MetricsLog(self.run, self.logging.tensorboard)

    def train(self, start: Checkpoint | None = None) -> TrainingResult:
        """Train from `start` (None: from the beginning) to `settings.max_steps`, or to an interrupt.

        Raises NonFiniteLossError (the checkpoints so far stay) and CheckpointError (an unfitting `start`, or the last
        checkpoint cannot be written).
        """
        first = self._restore(start)
        with ExitStack() as stack:
            stack.callback(self.module.train, self.module.training)
            stack.callback(self._log.close)
            stack.callback(self.reporter.close)
            stack.enter_context(isolated_random_state(self.device))
            stack.enter_context(deterministic_kernels(self.settings.deterministic))
            interrupt = stack.enter_context(catch_interrupts())
            self._log.open(first)
            self.reporter.start(first, self.settings.max_steps)
            step = self._loop(first, interrupt)
            if start is not None and step == first:
                return TrainingResult(step, False, self._last_loss, start.path)
            return self._finish(step)

    def _loop(self, first: int, interrupt: Interrupt) -> int:
        """Return the number of finished steps."""
        self.module.train()
        step = first
        with _closing(self.data.batches(first)) as batches:
            for index, batch in zip(range(first, self.settings.max_steps), batches, strict=False):
                self._window.append(*self._learner.step(index, batch))
                step = index + 1
                self._after_step(step, index == first, interrupt)
                if interrupt.requested:
                    return step
        if step < self.settings.max_steps:
            raise DataError(f"the data ended after {step} of {self.settings.max_steps} steps; batches must not end")
        return step

    def _after_step(self, step: int, is_first: bool, interrupt: Interrupt) -> None:
        self.reporter.advance(step)
        if is_first and not _due(step, self.logging.log_every):
            self._read_losses()
            self._clock.lap(step)
            self.reporter.log(StepReport(step, *self._window.averages()))
        if _due(step, self.logging.log_every):
            self._write_metrics(step)
            self._window.restart(step)
        if self.validate and _due(step, self.logging.validation_every):
            with self._evaluating():
                values = self.validate()
            self._write(step, {"validation": values})
        if _due(step, self.logging.checkpoint_every) and step < self.settings.max_steps:
            self._read_losses()
            with self._going_on():
                self._save(step)
        if self.on_samples and _due(step, self.logging.sample_every) and not interrupt.requested:
            with suppress(Stopped), self._evaluating(), interrupt.stopping(), self._going_on():
                self.on_samples(step)

    def _finish(self, step: int) -> TrainingResult:
        self._read_losses()
        path = self._save(step)
        interrupted = step < self.settings.max_steps
        if len(self._window) and not interrupted:
            self._write_metrics(step, {PROVISIONAL: True})
        return TrainingResult(step, interrupted, self._last_loss, path)

    def _read_losses(self) -> None:
        """Fetch the losses from the device: the only place that waits for it."""
        try:
            self._window.read()
        except NonFiniteLossError as error:
            saved = list_checkpoints(self.run.path)
            kept = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
            raise NonFiniteLossError(
                f"{error}. Training stopped; {kept}. Try a lower learning rate, a longer warm-up, or precision=float32"
            ) from None
        if len(self._window):
            self._last_loss = self._window.last[0]

    def _write_metrics(self, step: int, marks: Mapping[str, Any] | None = None) -> None:
        self._read_losses()
        self._clock.lap(step)
        loss, parts = self._window.averages()
        seconds = self._clock.seconds_per_step
        speed = self.settings.batch_size / seconds if seconds else None
        self.reporter.log(StepReport(step, loss, parts, speed, seconds))
        values = {
            "loss": loss,
            "parts": parts,
            "learning_rate": learning_rate(self.settings, step - 1),
            "grad_norm": self._window.last[1],
            "images_per_second": speed,
            "seconds": self._clock.seconds,
        }
        self._write(step, {**values, **(marks or {})})

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        with self._going_on():
            self._log.write(step, values)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self._read_losses()  # what is queued on the device is training time
        with self._clock.paused(), self._learner.evaluating():
            yield

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """A file that cannot be written on the way (the disk is full) is a warning."""
        try:
            yield
        except (OSError, CheckpointError) as error:
            self.reporter.warn(f"{error}; training goes on")

    def _save(self, step: int) -> Path:
        training = {
            "max_steps": self.settings.max_steps,
            "seconds": self._clock.seconds,
            "last_loss": self._last_loss,
            "window": self._window.state(),
        }
        state = {**self.snapshot, "training": training}
        with self._clock.paused():
            return save_checkpoint(self.run.path, step, self._learner.tensors(), state, self.logging.keep_checkpoints)

    def _restore(self, start: Checkpoint | None) -> int:
        """Return the number of finished steps."""
        if start is None:
            self._clock.begin(0.0)
            return 0
        self._learner.load(start)
        training = start.state["training"]
        self._window.load(training["window"])
        self._last_loss = float(training["last_loss"])
        self._clock.begin(float(training["seconds"]))
        for warning in resume_warnings(start, self.settings):
            self.reporter.warn(warning)
        return start.step


def resume_warnings(start: Checkpoint, settings: TrainingSettings) -> list[str]:
    """Say in what the continuation will differ from a run that never stopped."""
    warnings = []
    if start.state["torch"] != torch.__version__:
        warnings.append(
            f"the checkpoint was written with torch {start.state['torch']}, this is {torch.__version__}: "
            "the continuation will be close to an uninterrupted run, not equal to it"
        )
    before = start.state["training"]["max_steps"]
    if settings.rate_schedule == "cosine" and before != settings.max_steps:
        warnings.append(f"the cosine of the learning rate now ends at step {settings.max_steps}, no longer at {before}")
    return warnings


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@contextmanager
def _closing(batches: Iterable[Batch]) -> Iterator[Iterable[Batch]]:
    """Close a generator (and with it the workers behind it) as soon as the loop ends."""
    try:
        yield batches
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
