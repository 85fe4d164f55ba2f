"""Ctrl-C and SIGTERM: a checkpoint, how to go on, exit code 130; what goes on equals what never stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_tools import TINY, Dfm
from safetensors.torch import load_file

from dfm_core.cli.interrupt import NOTICE
from dfm_core.objective import FlowObjective
from dfm_core.training.checkpoint import list_checkpoints


def same_weights(first: Path, second: Path) -> bool:
    newest = [list_checkpoints(run)[-1] for run in (first, second)]
    assert newest[0].name == newest[1].name
    pairs = [[load_file(path / f"{name}.safetensors") for path in newest] for name in ("weights", "ema", "optimizer")]
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> dict[int, signal.Signals]:
    """Step (from 0) -> signal that this process gets while it computes that step's loss."""
    planned: dict[int, signal.Signals] = {}
    original = FlowObjective.__call__

    def interrupted(self: FlowObjective, batch: Any, randomness: Any) -> Any:
        if randomness.step in planned:
            os.kill(os.getpid(), planned.pop(randomness.step))
        return original(self, batch, randomness)

    monkeypatch.setattr(FlowObjective, "__call__", interrupted)
    return planned


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    number: signal.Signals, dfm: Dfm, trained: Path, tmp_path: Path, signals: dict[int, signal.Signals]
) -> None:
    signals[2] = number
    path = tmp_path / "run"
    stopped = dfm("train", *TINY, "--max-steps", 6, "--output", path, code=130)
    assert stopped.lines[-2:] == [
        f"stopped after step 3; checkpoint {path / 'checkpoints' / 'step_00000003'}",
        f"go on with:  dfm train --resume {path}",
    ]
    assert "sample with" not in stopped.out
    resumed = dfm("train", "--resume", path)
    assert resumed.lines[0].startswith("step 4/6 ")
    assert same_weights(path, trained)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]


def test_json_tells_of_the_interrupt(dfm: Dfm, tmp_path: Path, signals: dict[int, signal.Signals]) -> None:
    signals[1] = signal.SIGINT
    result = dfm("train", *TINY, "--max-steps", 6, "--output", tmp_path / "run", "--json", code=130)
    assert (result.json["step"], result.json["interrupted"]) == (2, True)


def test_a_second_interrupt_stops_at_once(
    dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: dict[int, signal.Signals]
) -> None:
    inner = FlowObjective.__call__

    def twice(self: FlowObjective, batch: Any, randomness: Any) -> Any:
        if randomness.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(self, batch, randomness)

    monkeypatch.setattr(FlowObjective, "__call__", twice)
    signals[2] = signal.SIGINT
    result = dfm("train", *TINY, "--max-steps", 6, "--output", tmp_path / "run", code=130)
    assert "Traceback" not in result.err
    assert list_checkpoints(tmp_path / "run") == []


def test_an_interrupt_before_the_first_step_leaves_nothing(
    dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dfm_core.runs.start.statistics_batches", interrupted)
    result = dfm("train", *TINY, "--output", tmp_path / "run", code=130)
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_the_handlers_of_the_caller_come_back(dfm: Dfm, tmp_path: Path, signals: dict[int, signal.Signals]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signals[0] = signal.SIGTERM
    dfm("train", *TINY, "--output", tmp_path / "run", code=130)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arguments", [(), ("--quiet",), ("--json",)], ids=str)
def test_a_signal_while_preparing_leaves_a_word_and_nothing_else(
    number: signal.Signals, arguments: tuple[str, ...], dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr("dfm_core.runs.start.statistics_batches", lambda *_: os.kill(os.getpid(), number))
    result = dfm("train", *TINY, "--output", tmp_path / "run", *arguments, code=130)
    assert (result.out, result.err.splitlines()[-1]) == ("", NOTICE)
    assert not (tmp_path / "run").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("moment", ["Gallery.collect", "Gallery.write"])
def test_sigterm_while_sampling_leaves_no_folder(
    moment: str, dfm: Dfm, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"dfm_core.pictures.gallery.{moment}", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    result = dfm("sample", trained, "--num", 1, "--steps", "1,1", "--output", tmp_path / "out", code=130)
    assert (result.out, result.err.splitlines()[-1]) == ("", NOTICE)
    assert not (tmp_path / "out").exists()


def test_who_switched_sigterm_off_keeps_it_off(dfm: Dfm, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    monkeypatch.setattr("dfm_core.runs.listing.list_runs", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or [])
    try:
        dfm("runs", ".", code=0)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGTERM")
def test_sigterm_from_outside_while_preparing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dfm_core", "train", *TINY, "--output", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("preparing data and model")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", f"{NOTICE}\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGTERM")
def test_sigterm_from_outside(dfm: Dfm, tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-m", "dfm_core", "train", *TINY, "--max-steps", "1000000", "--output", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (path / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Stopping after this step, with a checkpoint. Once more stops at once, without one." in err
    assert "Traceback" not in err
    (step,) = map(int, re.findall(r"^stopped after step (\d+); checkpoint ", out, re.MULTILINE))
    assert f"go on with:  dfm train --resume {path}" in out
    assert [checkpoint.name for checkpoint in list_checkpoints(path)] == [f"step_{step:08d}"]
    assert f"trained to step {step + 1};" in dfm("train", "--resume", path, "--max-steps", step + 1).out
