"""Several processes at one comparison: they share the trainings, and the results are those of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparison_files import TINY, write

from dfm_core.cli.app import main
from dfm_core.comparison.claims import LOCK, claimed, share
from dfm_core.errors import DFMError

DFM = [sys.executable, "-P", "-m", "dfm_core", "compare"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "dfm_core", "compare"]
HOLD = """
import sys, time
from pathlib import Path
from dfm_core.errors import DFMError
from dfm_core.comparison.claims import claimed
with claimed(Path(sys.argv[1])) as own:
    print(own, flush=True)
    time.sleep(600)
"""
PATIENCE = 200
"""Seconds."""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # bits may depend on them


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_a_training_belongs_to_one_process_until_it_ends(tmp_path: Path) -> None:
    with claimed(tmp_path / "a") as own, claimed(tmp_path / "b") as other:
        assert (own, other) == (True, True)
    process = holder(tmp_path / "a")
    try:
        with claimed(tmp_path / "a") as own, claimed(tmp_path / "b") as other:
            assert (own, other) == (False, True)
    finally:
        process.kill()
        process.communicate()
    with claimed(tmp_path / "a") as own:
        assert own


def test_without_locks_one_process_works_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: object, blocking: bool) -> None:
        raise NotImplementedError("flock")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with claimed(tmp_path / "a") as own:
        assert own


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DFMError, match=r"cannot write into .*a: .*choose another --output"),
        claimed(tmp_path / "file" / "a"),
    ):
        pass


def test_work_of_others_is_waited_for_and_taken_up() -> None:
    held, done, told = {"b": 2, "c": 1}, list[str](), list[list[str]]()

    def work(job: str) -> bool:
        if held.get(job, 0):
            held[job] -= 1
            return False
        done.append(job)
        return True

    share("abcd", work, told.append, pause=0)
    assert done == ["a", "d", "c", "b"]
    assert told == []  # every look found something to do
    held["x"] = 3
    share("x", work, told.append, pause=0)
    assert told == [["x"]]


def compared(command: list[str], file: Path, folder: Path, *more: str) -> str:
    """Run a comparison; return what it said."""
    done = subprocess.run(
        [*command, str(file), "--output", str(folder), *more],
        **{"capture_output": True, "text": True, "timeout": PATIENCE, "check": False},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["nproc", "torchrun"])
def test_two_processes_find_what_one_finds(launcher: str, tmp_path: Path) -> None:
    seed_of_rates: dict[str, Any] = {"learning_rates": {"values": [1e-3, 2e-3]}}
    file = write(tmp_path / "tiny.yaml", {**TINY, **seed_of_rates, "seeds": [0, 1]})
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main(["compare", str(file), "--output", str(alone), "--quiet"]) == 0
    command, more = (DFM, ["--nproc", "2"]) if launcher == "nproc" else (TORCHRUN, [])
    said = compared(command, file, shared, *more)
    assert said.count("preparing variants") == 1
    assert said.count("wrote results.json") == 1
    trainings = [line for line in said.splitlines() if line.startswith("training ")]
    assert len(trainings) == len(set(trainings)) == 6  # two rates of each variant, and the other seed
    assert (alone / "results.json").read_bytes() == (shared / "results.json").read_bytes()
    held = {path.parent.relative_to(shared) for path in shared.rglob(LOCK)}
    assert held == {path.parent.relative_to(alone) for path in alone.rglob(LOCK)}


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_taken_up(tmp_path: Path) -> None:
    long = {**TINY["base"], "training": {**TINY["base"]["training"], "max_steps": 60}}
    file, folder = write(tmp_path / "tiny.yaml", {**TINY, "base": long}), tmp_path / "shared"
    assert main(["compare", str(file), "--output", str(tmp_path / "alone"), "--quiet"]) == 0
    first = subprocess.Popen([*DFM, str(file), "--output", str(folder), "--quiet"], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while not any(folder.glob("runs/flow-matching/seed-0/run-1/checkpoints/step_*3")):
            assert first.poll() is None
            assert time.monotonic() < end
            time.sleep(0.002)
        second = subprocess.Popen(
            [*DFM, str(file), "--output", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.kill(first.pid, signal.SIGSTOP)  # stopped, so that it does not finish: it holds what it holds
    assert second.stderr is not None
    said = []
    for line in second.stderr:
        said.append(line)
        if "other processes are at flow-matching: seed 0: waiting" in line:
            first.kill()
            first.communicate()
    assert second.wait(PATIENCE) == 0, said
    assert first.returncode is not None, said
    alone, shared = ((tmp_path / name / "results.json").read_bytes() for name in ("alone", "shared"))
    assert alone == shared


def test_a_new_comparison_appears_while_another_process_writes_its_record(tmp_path: Path, tiny_file: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / ".comparison.json.4242.tmp").write_text("")
    assert main(["compare", str(tiny_file), "--output", str(folder), "--quiet"]) == 0
    assert yaml.safe_load((folder / "comparison.json").read_text())["variants"]
