"""What the user sees: plain lines, the live line, and nothing."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from dfm_core.training.clock import StepClock
from dfm_core.training.progress import (
    PlainReporter,
    QuietReporter,
    Reporter,
    RichReporter,
    StepReport,
    make_reporter,
)

REPORT = StepReport(20, 0.81234, {"stage_1": 0.7, "stage_2": 0.2}, 412.34, 0.5)


def test_text_has_losses_speed_and_eta() -> None:
    assert REPORT.text(20, 120) == "loss 0.8123  stage_1 0.7000  stage_2 0.2000  412.3 images/s  ETA 0:00:50"


def test_first_step_has_no_speed_yet() -> None:
    assert StepReport(1, 1.0).text(1, 10) == "loss 1.0000"


def test_plain_lines() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    reporter.start(0, 120)
    for step in range(1, 21):
        reporter.advance(step)
    reporter.log(REPORT)
    reporter.close()
    assert stream.getvalue() == f"step 20/120  {REPORT.text(20, 120)}\n"


def test_quiet_says_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = QuietReporter()
    reporter.start(0, 10)
    reporter.advance(1)
    reporter.log(REPORT)
    reporter.say("hello")
    reporter.warn("disk full")
    reporter.close()
    assert capsys.readouterr() == ("", "warning: disk full\n")


def live(width: int, report: StepReport = REPORT) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None)
    reporter = RichReporter(console)
    reporter.start(100, 2500)
    reporter.advance(101)
    reporter.log(report)
    reporter.advance(120)
    reporter.say("sample grid [bold] written")
    reporter.warn("old checkpoint")
    reporter.close()
    return stream.getvalue()


def test_live_line() -> None:
    shown = live(140)
    assert "120/2500" in shown
    assert REPORT.text(120, 2500) in shown
    assert "sample grid [bold] written" in shown
    assert "warning: old checkpoint" in shown


THREE = StepReport(20, 0.81234, {"stage_1": 0.7, "stage_2": 0.2, "stage_3": 0.1}, 412.34, 0.5)
FITTING = {
    130: (True, f" 120/2500  {THREE.text(120, 2500)}"),
    100: (False, f" 120/2500  {THREE.text(120, 2500)}"),
    80: (False, " 120/2500  loss 0.8123  s1 0.7000  s2 0.2000  s3 0.1000  412.3/s  ETA 0:19:50"),
    60: (False, " 120/2500  loss 0.8123  412.3/s  ETA 0:19:50"),
    30: (False, " 120/2500  loss 0.8123  412.3…"),
}


@pytest.mark.parametrize("width", FITTING)
def test_the_live_line_fits_the_terminal(width: int) -> None:
    """It never wraps: Ctrl-C would leave a torn copy of it above."""
    shown = live(width, THREE).split("\x1b[2K")[-1]
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", shown).rstrip("\n")
    bar, line = FITTING[width]
    assert "\n" not in visible
    assert len(visible) <= width
    assert visible.strip().endswith(line.strip())
    assert (visible[0] in "━╸") == bar


def test_short_names_that_would_be_the_same_stay_long() -> None:
    report = StepReport(1, 1.0, {"mean_1": 0.5, "median_1": 0.25})
    assert report.text(1, 2, brevity=1) == "loss 1.0000  mean_1 0.5000  median_1 0.2500"


def test_before_the_first_step_the_live_line_says_so() -> None:
    stream = io.StringIO()
    reporter = RichReporter(Console(file=stream, force_terminal=True, width=120, color_system=None))
    reporter.start(0, 10)
    reporter.close()
    assert "first step" in stream.getvalue()


@pytest.mark.parametrize(
    ("arguments", "terminal", "expected"),
    [
        ({}, True, RichReporter),
        ({}, False, PlainReporter),
        ({"quiet": True}, True, QuietReporter),
    ],
)
def test_choice(arguments: dict[str, Any], terminal: bool, expected: type[Reporter]) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    assert type(make_reporter(**arguments, console=console)) is expected


class FakeTime:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_clock_leaves_out_first_step_and_pauses() -> None:
    time = FakeTime()
    clock = StepClock(time)
    clock.begin(1000.0)
    time.now = 60.0  # compilation
    clock.lap(1)
    assert clock.seconds_per_step is None
    time.now = 65.0
    with clock.paused():
        time.now = 165.0
    time.now = 170.0
    clock.lap(11)
    assert clock.seconds_per_step == 1.0
    clock.lap(11)
    assert clock.seconds_per_step == 1.0
    assert clock.seconds == 1170.0
