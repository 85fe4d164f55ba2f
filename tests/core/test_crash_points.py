"""SIGKILL at named points of a checkpoint: the run goes on, and ends with the bits of one that was never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crash_processes import POINTS, SETTINGS
from toy_training import assert_equal_runs, lines, make

from dfm_core.training.checkpoint import load_newest, open_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes that are killed are forked")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run for every point, and `whole`."""
    folder = tmp_path_factory.mktemp("crashes")
    script = Path(__file__).with_name("crash_processes.py")
    said = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=120)
    expected = [f"{point}: {int(signal.SIGKILL)}" for point in POINTS]
    assert [line for line in said.stdout.splitlines() if ": " in line] == expected, said.stderr
    make(folder / "whole", **SETTINGS).train()
    return folder


@pytest.mark.parametrize("point", POINTS)
def test_killed_there_a_run_goes_on_with_the_same_bits(killed: Path, point: str) -> None:
    run, (_, step) = killed / point, POINTS[point]
    found = [path for path in (run / "checkpoints").iterdir() if not path.name.startswith(".")]
    assert [open_checkpoint(path).step for path in sorted(found)] == ([3, 6] if point == "after the rename" else [step])
    start, passed_over = load_newest(run)
    assert (start.step, passed_over) == (step, [])
    make(run, **SETTINGS).train(start)
    assert_equal_runs(killed / "whole", run)
    assert lines(run) == lines(killed / "whole")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000010"]
