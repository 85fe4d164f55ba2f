"""A comparison whose process is killed, in a training and in a measurement, and begun again: the same results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from comparison_files import TINY, write

from dfm_core.cli.app import main

PATIENCE = 300
"""Seconds."""


def killed_when(command: list[str], folder: Path, pattern: str) -> None:
    """Begin a command, and kill it as soon as something in `folder` matches."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # bits may depend on them
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **threads}
    )
    try:
        end = time.monotonic() + PATIENCE
        while not any(folder.glob(pattern)):
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < end, f"nothing matched {pattern}"
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_comparison_goes_on_to_the_same_results(tmp_path: Path) -> None:
    base = {**TINY["base"], "training": {**TINY["base"]["training"], "max_steps": 40}}
    file = write(tmp_path / "tiny.yaml", {**TINY, "base": base, "evaluation": {**TINY["evaluation"], "num": 96}})
    assert main(["compare", str(file), "--output", str(tmp_path / "whole"), "--quiet"]) == 0
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "dfm_core", "compare", str(file), "--output", str(killed), "--quiet"]
    killed_when(command, killed, "runs/flow-matching/seed-0/run-1/checkpoints/step_*3")
    killed_when(command, killed, "samples/*/*.safetensors")
    killed_when(command, killed, "runs/haar/seed-0/run-1/checkpoints/step_*")
    (table,) = json.loads((killed / "results.json").read_text())["metrics"]  # of the first training
    assert table["variants"]["haar"]["spread"] is None
    assert main(["compare", str(file), "--output", str(killed), "--quiet"]) == 0
    whole, resumed = ((tmp_path / name / "results.json").read_bytes() for name in ("whole", "killed"))
    assert whole == resumed
