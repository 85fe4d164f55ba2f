"""The loop: batches -> learner, with a log, checkpoints, evaluations and a way to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from dfm_core.config.settings import LoggingSettings, TrainingSettings
from dfm_core.errors import DataError, LostProcessError
from dfm_core.training.checkpoint import FOLDER, Checkpoint, checkpoint_name, list_checkpoints
from dfm_core.training.checkpoint_writer import CheckpointWriter, Groups
from dfm_core.training.distributed import World, lost_processes_named
from dfm_core.training.execution import deterministic_kernels, isolated_random_state
from dfm_core.training.interrupt import Interrupt, Stopped, catch_interrupts
from dfm_core.training.learner import Batch, Learner, Objective
from dfm_core.training.metrics_log import MetricsLog
from dfm_core.training.optimizer import learning_rate
from dfm_core.training.parallel import messages
from dfm_core.training.progress import QuietReporter, Reporter
from dfm_core.training.run_directory import RunDirectory
from dfm_core.training.step_log import StepLog


class BatchSource(Protocol):
    """Batches as a pure function of the step: nothing about the position in the data needs saving."""

    def batches(self, start_step: int) -> Iterable[Batch]:
        """Yield the batches of steps start_step, start_step + 1, … without end; every tensor (B, ...).

        With several processes, each yields its own part of every batch: all of one size, in the processes' order.
        """


@dataclass(frozen=True)
class TrainingResult:
    """How training ended. last_loss: of the last step. checkpoint: the newest.

    interrupted: before `max_steps`. out_of_time: because `max_minutes` had passed, and nobody asked for it otherwise.
    """

    step: int
    interrupted: bool
    last_loss: float
    checkpoint: Path
    out_of_time: bool = False


@dataclass(eq=False)
class Trainer:
    """Minimise `objective(batch, randomness)` over the parameters of `module`.

    Step i (from 0) takes a run from i to i + 1 finished steps; all that is random in it derives from (seed, i), so a
    resumed run equals one that never stopped (bit for bit on a CPU; on CUDA with `settings.deterministic`).

    snapshot: what else the state.json of every checkpoint holds, key by key: config, plugin versions, statistics (not
    the reserved keys training, format, step, torch, files, sha256). on_samples(finished steps) and
    validate() -> {name: value} run with the averaged weights in eval mode, in the precision of training.

    world: the processes that train together; each has a trainer, and all do the same, evaluations too, but only the
    first writes and speaks. blocks: repeated parts of `module`, units of sharding and of activation checkpointing.

    For the log: parameter_groups, names of the parameters of `module` whose gradients have a norm of their own; and
    flops, of forward and backward of a step of all processes, from which the utilisation follows.
    began: reading of time.monotonic() from which `max_minutes` count.
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
    world: World = field(default_factory=World)
    blocks: Sequence[nn.Module] = ()
    parameter_groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    flops: int | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._learner = Learner(
            self.module,
            self.objective,
            self.settings,
            self.device,
            self.seed,
            self.world,
            self.blocks,
            self.parameter_groups,
        )
        self._writer = CheckpointWriter(
            self.run.path,
            self.logging.keep_checkpoints,
            self.logging.async_checkpoints,
            self.reporter.warn,
            self.logging.checkpoint_steps,
        )
        self._log = StepLog(
            MetricsLog(self.run, self.logging, self.snapshot.get("config"), self._warn),
            self.reporter,
            self.world,
            self.device,
            self._learner.dtype,
            self.settings.batch_size,
            self.flops,
            self._kept,
        )

    def train(self, start: Checkpoint | None = None) -> TrainingResult:
        """Train from `start` (None: from the beginning) to `settings.max_steps`, or to an interrupt.

        Raises NonFiniteLossError (the checkpoints so far stay), CheckpointError (an unfitting `start`, or the last
        checkpoint cannot be written) and LostProcessError (another process has ended).
        """
        for message in messages(self.blocks, self.settings, self.world):
            self._warn(message)
        first = self._restore(start)
        with ExitStack() as stack:
            stack.enter_context(self._losing_processes())
            stack.callback(self.module.train, self.module.training)
            stack.push(lambda error, *_: self._log.close(failed=error is not None))
            stack.callback(self.reporter.close)
            stack.push(lambda error, *_: self._writer.close(at_once=error is KeyboardInterrupt))
            stack.enter_context(isolated_random_state(self.device))
            stack.enter_context(deterministic_kernels(self.settings.deterministic))
            interrupt = stack.enter_context(catch_interrupts(notice=self.world.is_first))
            self._log.open(first)
            self.reporter.start(first, self.settings.max_steps)
            step = self._loop(first, interrupt)
            if start is not None and step == first:
                return TrainingResult(step, False, self._log.last_loss, start.path)
            return self._finish(step, interrupt)

    def _loop(self, first: int, interrupt: Interrupt) -> int:
        """Return the number of finished steps."""
        self.module.train()
        step = first
        with _closing(self.data.batches(first)) as batches:
            arriving = self._log.arriving(batches)
            for index, batch in zip(range(first, self.settings.max_steps), arriving, strict=False):
                stopping = self.world.ask(lambda: interrupt.requested or self._is_out_of_time())
                step = index + 1
                measure = _due(step, self.logging.log_every) or step == self.settings.max_steps
                self._log.append(*self._learner.step(index, batch, measure))
                self._after_step(step, index == first, interrupt, stopping)
                if stopping():
                    return step
        if step < self.settings.max_steps:
            raise DataError(f"the data ended after {step} of {self.settings.max_steps} steps; batches must not end")
        return step

    def _after_step(self, step: int, is_first: bool, interrupt: Interrupt, stopping: Callable[[], bool]) -> None:
        self.reporter.advance(step)
        self._writer.report()
        # A first step that is also the last is told of at the end.
        if is_first and not _due(step, self.logging.log_every) and step < self.settings.max_steps:
            self._learner.check()
            self._log.tell_first(step)
        if _due(step, self.logging.log_every):
            self._write_line(step)
        if self.validate and _due(step, self.logging.validation_every):
            with self._evaluating():
                values = self.validate()
            self._log.write(step, {"validation": values})
        wanted = _due(step, self.logging.checkpoint_every) or step in self.logging.checkpoint_steps
        if wanted and step < self.settings.max_steps:
            self._read_losses()
            self._save(step, self._writer.save)
        if self.on_samples and _due(step, self.logging.sample_every) and not stopping():
            # One of several processes must not leave the others waiting in a network that they share.
            breaking_off = interrupt.stopping() if self.world.size == 1 else nullcontext()
            with suppress(Stopped), self._evaluating(), breaking_off, self._log.going_on():
                self.on_samples(step)

    def _is_out_of_time(self) -> bool:
        minutes = self.settings.max_minutes
        return minutes is not None and time.monotonic() - self.began > 60 * minutes

    def _finish(self, step: int, interrupt: Interrupt) -> TrainingResult:
        self._read_losses()
        asked = any(self.world.gather(interrupt.requested))
        path = self._save(step, self._writer.save_last)
        interrupted = step < self.settings.max_steps
        if not interrupted:
            self._write_line(step, last=True)
        return TrainingResult(step, interrupted, self._log.last_loss, path, interrupted and not asked)

    def _read_losses(self) -> None:
        self._learner.check()
        self._log.read()

    def _write_line(self, step: int, last: bool = False) -> None:
        self._learner.check()
        rate = learning_rate(self.settings, step - 1)
        self._log.write_line(step, rate, self._learner.read_group_norms(), last)

    def _warn(self, message: str) -> None:
        """Warn of what all processes see alike."""
        if self.world.is_first:
            self.reporter.warn(message)

    def _kept(self) -> str:
        self._writer.settle()
        saved = list_checkpoints(self.run.path)
        return f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"

    @contextmanager
    def _losing_processes(self) -> Iterator[None]:
        try:
            with lost_processes_named("while it trained") if self.world.size > 1 else nullcontext():
                yield
        except LostProcessError as error:
            going_on = f"go on with `dfm train --resume {self.run.path}`"
            raise LostProcessError(f"{error}; {self._kept()}: {going_on}") from error

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self._read_losses()  # what is queued on the device is training time
        with self._log.paused(), self._learner.evaluating():
            yield

    def _save(self, step: int, write: Callable[[int, Groups, Mapping[str, object]], None]) -> Path:
        training = {"max_steps": self.settings.max_steps, **self._log.state()}
        state = {**self.snapshot, "training": training}
        with self._log.paused():
            tensors = self._learner.tensors(self._writer.keep)  # of all processes
            if self.world.is_first:
                write(step, tensors, state)
        return self.run.path / FOLDER / checkpoint_name(step)

    def _restore(self, start: Checkpoint | None) -> int:
        """Return the number of finished steps."""
        if start is not None:
            self._learner.load(start)
        self._log.begin(None if start is None else start.state["training"])
        if start is None:
            return 0
        for warning in resume_warnings(start, self.settings):
            self._warn(warning)
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
