"""The launcher alone, with little scripts for processes: signals, exit codes, and failures that are told once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command_tools import Dfm, Rejected

from dfm_core.cli import launch, threads
from dfm_core.cli.interrupt import NOTICE

LEAVE = """
import json, os, pathlib, signal, sys, time
index, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
def fail(message, lost=False, code=1):
    left = {"message": message, "exit_code": code, "lost": lost}
    pathlib.Path(os.environ["DFM_LAUNCHER"], str(index)).write_text(json.dumps(left))
    sys.exit(code)
def stopped(*_):
    pathlib.Path(sys.argv[1], f"stopped{index}").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, stopped)
pathlib.Path(sys.argv[1], f"started{index}").write_text(os.environ["OMP_NUM_THREADS"])
"""
WAIT = "time.sleep(60)"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "GRACE", 0.5)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the scripts leave their traces."""
    launch.remember_arguments([str(tmp_path)])
    return tmp_path


def launched(script: str, monkeypatch: pytest.MonkeyPatch, size: int = 2, alone: bool = False) -> int:
    monkeypatch.setattr(launch, "COMMAND", [sys.executable, "-S", "-c", LEAVE + script])
    return launch.launch(size, alone)


def when_started(run: Path, action: object, size: int = 2) -> threading.Thread:
    """Do something as soon as all processes run."""

    def wait() -> None:
        while len(list(run.glob("started*"))) < size:
            time.sleep(0.02)
        time.sleep(0.1)
        action()  # type: ignore[operator]

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_processes_share_the_cores(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched("", monkeypatch, size=3) == 0
    given = {path.read_text() for path in run.glob("started*")}
    assert given == {str(max(1, threads.available_cores() // 3))}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert launched("", monkeypatch) == 0
    assert (run / "started0").read_text() == "7"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_every_process_once(number: int, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(number)
    thread = when_started(run, lambda: os.kill(os.getpid(), number))
    assert launched(WAIT, monkeypatch) == 130
    thread.join()
    assert len(list(run.glob("stopped*"))) == 2
    assert signal.getsignal(number) == handler


def test_processes_that_end_silently_are_spoken_for(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    thread = when_started(run, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert launched("signal.signal(signal.SIGTERM, signal.SIG_DFL)\n" + WAIT, monkeypatch) == 130
    thread.join()
    assert capsys.readouterr().err == f"{NOTICE}\n"


def test_nohup_is_respected(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        thread = when_started(run, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert launched("time.sleep(0.5)", monkeypatch) == 0
        thread.join()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_to_one_process_is_an_interrupt(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched("sys.exit(130)", monkeypatch) == 130


def test_the_third_signal_kills(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def thrice() -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    thread = when_started(run, thrice)
    assert launched("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT, monkeypatch) == 130
    thread.join()


def test_what_all_say_is_told_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launched("fail('no such thing', code=2)", monkeypatch) == 2
    assert capsys.readouterr().err == "error: no such thing\n"


def test_the_process_that_failed_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launched("fail('bad disk') if index else fail('another ended', lost=True)", monkeypatch) == 1
    assert capsys.readouterr().err == "error: process 1: bad disk\n       another ended\n"


def test_a_killed_process_is_named_and_the_others_are_not_waited_for(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = time.monotonic()
    assert launched(f"os.kill(os.getpid(), signal.SIGKILL) if index else {WAIT}", monkeypatch) == 1
    assert time.monotonic() - begin < 30
    assert capsys.readouterr().err == "error: process 1 was ended by SIGKILL (by the system, if memory was short)\n"


def test_a_process_that_says_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launched("sys.exit(3) if index else 0", monkeypatch) == 1
    assert capsys.readouterr().err == "error: process 1 ended with exit code 3\n"


def test_nproc_under_torchrun(rejected: Rejected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = rejected("train", "--nproc", 2)
    assert said.startswith("--nproc 2 starts processes, and this one was started by torchrun")


def test_a_process_of_torchrun_is_named(dfm: Dfm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert "error: process 1: training.nothing: unknown key" in dfm("train", "--set", "training.nothing=1", code=2).err


def test_nproc_must_be_a_number_of_processes(dfm: Dfm) -> None:
    assert "greater than or equal to 1" in dfm("train", "--nproc", 0, code=2).err


@pytest.mark.parametrize("by_finalization", [False, True])
def test_one_of_several_ends_before_the_interpreter_is_taken_apart(by_finalization: bool) -> None:
    """Where letting go of an object aborts the process, as gloo's threads can: the handlers still run."""
    script = f"""
import atexit, os, sys
from dfm_core.cli.launch import end_without_finalization
if not {by_finalization}:
    end_without_finalization(lambda: exit_code)
class Last:
    def __del__(self, abort=os.abort):
        abort()
sys.modules["last"] = Last()
atexit.register(print, "handlers ran")
exit_code = 3
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "handlers ran\n", done.stderr
    assert done.returncode == (-signal.SIGABRT if by_finalization else 3)


@pytest.mark.parametrize("end", ["fail('broken')", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_where_processes_are_alone_one_that_fails_leaves_the_others_at_work(
    end: str, run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = f"""
if index:
    {end}
time.sleep(2)
pathlib.Path(sys.argv[1], "finished").touch()
"""
    assert launched(script, monkeypatch, alone=True) == 1
    assert (run / "finished").exists()
    assert not list(run.glob("stopped*"))
    assert "process 1" in capfd.readouterr().err
    (run / "finished").unlink()
    assert launched(script, monkeypatch) == 1
    assert not (run / "finished").exists()
