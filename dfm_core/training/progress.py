"""What a run shows while it trains: a live line on a terminal, plain lines when piped, nothing when quiet."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID
from rich.text import Text


@dataclass(frozen=True)
class StepReport:
    """Numbers of a logging step. seconds_per_step: without compilation and checkpoints; None before it is known."""

    step: int
    loss: float
    parts: dict[str, float] = field(default_factory=dict)
    images_per_second: float | None = None
    seconds_per_step: float | None = None

    def text(self, step: int, max_steps: int) -> str:
        """One line: the losses, the speed, and the time that is left after `step`."""
        words = [f"loss {self.loss:.4f}", *(f"{name} {value:.4f}" for name, value in self.parts.items())]
        if self.images_per_second is not None:
            words.append(f"{self.images_per_second:.4g} images/s")
        if self.seconds_per_step is not None:
            words.append(f"ETA {timedelta(seconds=round(self.seconds_per_step * (max_steps - step)))}")
        return "  ".join(words)


class Reporter:
    """Where the trainer tells what happens. This base says nothing but its warnings, on stderr."""

    def start(self, step: int, max_steps: int) -> None:
        """Training begins after `step` finished steps."""

    def advance(self, step: int) -> None:
        """`step` steps are finished. Called every step: it must cost nothing."""

    def log(self, report: StepReport) -> None:
        """The first step, or a logging step, is finished."""

    def say(self, message: str) -> None:
        """Tell something that is as it should be."""

    def warn(self, message: str) -> None:
        """Tell something that went wrong and does not stop the run."""
        print(f"warning: {message}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Training is over, in whichever way."""


class QuietReporter(Reporter):
    """Warnings only."""


class PlainReporter(Reporter):
    """One line a logging step, for files and pipes."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout
        self._max_steps = 0

    def start(self, step: int, max_steps: int) -> None:
        self._max_steps = max_steps

    def log(self, report: StepReport) -> None:
        self.say(f"step {report.step}/{self._max_steps}  {report.text(report.step, self._max_steps)}")

    def say(self, message: str) -> None:
        # `dfm train | head` must not end the run when head has read enough.
        with suppress(BrokenPipeError):
            print(message, file=self._stream, flush=True)


class _StatusColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        report: StepReport | None = task.fields["report"]
        waiting = "first step: preparing data and kernels"
        return Text(report.text(int(task.completed), int(task.total or 0)) if report else waiting)


class RichReporter(Reporter):
    """A live line with bar, step, losses, images/s and ETA."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        columns = (BarColumn(bar_width=16), MofNCompleteColumn(), _StatusColumn())
        self._progress = Progress(*columns, console=self._console, refresh_per_second=4)
        self._task: TaskID | None = None

    def start(self, step: int, max_steps: int) -> None:
        self._task = self._progress.add_task("", total=max_steps, completed=step, report=None)
        self._progress.start()

    def advance(self, step: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=step)

    def log(self, report: StepReport) -> None:
        if self._task is not None:
            self._progress.update(self._task, report=report)

    def say(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False)

    def warn(self, message: str) -> None:
        self._console.print(f"warning: {message}", style="yellow", markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


def make_reporter(quiet: bool = False, console: Console | None = None) -> Reporter:
    """Choose by where the output goes. NO_COLOR is rich's to respect."""
    console = console or Console()
    if quiet:
        return QuietReporter()
    return RichReporter(console) if console.is_terminal else PlainReporter(console.file)
