"""What a run shows while it trains: a live line on a terminal, plain lines when piped, nothing when quiet."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import IO

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

BAR = 16
"""Width of the bar of the live line."""


@dataclass(frozen=True)
class StepReport:
    """Numbers of a logging step. seconds_per_step: without compilation and checkpoints; None before it is known."""

    step: int
    loss: float
    parts: dict[str, float] = field(default_factory=dict)
    images_per_second: float | None = None
    seconds_per_step: float | None = None

    def text(self, step: int, max_steps: int, brevity: int = 0) -> str:
        """One line: the losses, the speed, and the time that is left after `step`.

        brevity: 1 shortens the names, 2 leaves the losses' parts out.
        """
        parts = {} if brevity > 1 else _initials(self.parts) if brevity else self.parts
        words = [f"loss {self.loss:.4f}", *(f"{name} {value:.4f}" for name, value in parts.items())]
        if self.images_per_second is not None:
            words.append(f"{self.images_per_second:.4g}{'' if brevity else ' images'}/s")
        if self.seconds_per_step is not None:
            words.append(f"ETA {timedelta(seconds=round(self.seconds_per_step * (max_steps - step)))}")
        return "  ".join(words)


def _initials(parts: dict[str, float]) -> dict[str, float]:
    """The parts under short names, stage_1 as s1; under their own where that would confuse them."""
    short = {
        "".join(word if word.isdigit() else word[:1] for word in name.split("_")): value
        for name, value in parts.items()
    }
    return short if len(short) == len(parts) else parts


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


class _LiveLine(ProgressColumn):
    """Bar, step and report in one line: what wraps is torn when something is printed above it.

    Where the terminal is narrow, the bar goes first, then words of the report.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._console = console

    def render(self, task: Task) -> RenderableType:
        step, total = int(task.completed), int(task.total or 0)
        report: StepReport | None = task.fields["report"]
        count = f"{step:{len(str(total))}}/{total}  "
        waiting = "first step: preparing data and kernels"
        lines = [count + (report.text(step, total, brevity) if report else waiting) for brevity in range(3)]
        room = self._console.width
        if len(lines[0]) + BAR + 1 <= room:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(ProgressBar(total=total, completed=step, width=BAR), Text(lines[0]))
            return grid
        return Text(next((line for line in lines if len(line) <= room), lines[-1]))


class RichReporter(Reporter):
    """A live line with bar, step, losses, images/s and ETA."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._progress = Progress(_LiveLine(self._console), console=self._console, refresh_per_second=4)
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
