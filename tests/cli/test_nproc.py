"""`dfm train` in several processes: one voice, one run; signals, killed processes, torchrun, the page's commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_tools import TINY, Dfm

from dfm_core.training.checkpoint import list_checkpoints, load_newest

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
DFM = [sys.executable, "-P", "-m", "dfm_core"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
ENDLESS = [*TINY, "--max-steps", "1000000", "--set", "logging.checkpoint_every=5", "--set", "logging.log_every=5"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=200, check=False)


def test_two_processes_speak_as_one_and_one_goes_on(dfm: Dfm, tmp_path: Path) -> None:
    path = tmp_path / "run"
    done = run(*DFM, "train", *TINY, "--max-steps", 4, "--output", path, "--nproc", 2, "--parallel", "fsdp")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["stage", "2"],
        *(["step", f"{step}/4"] for step in (1, 2, 4)),
        *(["trained", "to"], ["sample", "with:"]),
    ]
    assert done.stderr.splitlines() == [
        "preparing data and model …",
        f"run {path}",
        "shapes, 8 classes; to step 4, 4 images a step",
        "laplacian, stages 8×8 → 16×16",
        "dit, 43.1 k parameters, tokens 8x8 = 64, patches 1, 2; on cpu, 2 processes (fsdp)",
    ]
    assert [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()] == [2, 4]
    assert dfm("train", "--resume", path, "--nproc", 1, "--max-steps", 6).lines[0].startswith("step 5/6 ")


@pytest.mark.slow
def test_a_batch_that_cannot_be_split(tmp_path: Path) -> None:
    done = run(*DFM, "train", *TINY, "--output", tmp_path / "run", "--nproc", 3)
    assert done.returncode == 2
    (error,) = (line for line in done.stderr.splitlines() if "error" in line)
    assert error.startswith("error: a batch of 4 cannot be split evenly over 3 processes: use a --batch-size of 3 or 6")
    assert not (tmp_path / "run").exists()


class Running:
    """A run in two processes that goes on until somebody stops it. command: what starts it."""

    def __init__(self, command: list[str], path: Path) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [*command, "train", *ENDLESS, "--output", str(path), *(["--nproc", "2"] if command is DFM else [])],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True},
        )
        deadline = time.monotonic() + 120
        while not list_checkpoints(path) and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def children(self) -> list[int]:
        """Process ids of the two, the first first."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, found))

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr; at most 60 seconds from now."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A run of `dfm train --nproc 2` with a checkpoint."""
    made = Running(DFM, tmp_path / "run")
    yield made
    made.process.kill()


linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes as Linux shows them")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "second", "all"])
def test_a_signal_stops_all_with_a_checkpoint(whom: str, running: Running, dfm: Dfm) -> None:
    first, second = running.children()
    pids = {"launcher": [running.process.pid], "second": [second], "all": [first, second]}[whom]
    for pid in pids:
        os.kill(pid, signal.SIGINT if whom == "launcher" else signal.SIGTERM)
    code, out, err = running.end()
    assert code == 130, err
    assert "Traceback" not in err
    assert err.count("Stopping after this step") == (whom != "second")
    (step,) = map(int, re.findall(r"^stopped after step (\d+); checkpoint ", out, re.MULTILINE))
    assert load_newest(running.path)[0].step == step
    assert f"trained to step {step + 1};" in dfm("train", "--resume", running.path, "--max-steps", step + 1).out


@pytest.mark.slow
def test_all_stop_together_when_their_minutes_have_passed(tmp_path: Path, dfm: Dfm) -> None:
    done = run(*DFM, "train", *ENDLESS, "--nproc", "2", "--max-minutes", "0.05", "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    (step,) = map(int, re.findall(r"^stopped after step (\d+) \(training.max_minutes\); ", done.stdout, re.MULTILINE))
    assert load_newest(tmp_path / "run")[0].step == step
    assert f"trained to step {step + 1};" in dfm("train", "--resume", tmp_path / "run", "--max-steps", step + 1).out


@linux
@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_killed_process_ends_the_others_and_the_checkpoint_is_good(index: int, running: Running, dfm: Dfm) -> None:
    os.kill(running.children()[index], signal.SIGKILL)
    code, _, err = running.end()
    assert code == 1
    assert "Traceback" not in err
    assert f"error: process {index} was ended by SIGKILL (by the system, if memory was short)" in err
    assert "another process of this run ended while it trained" in err
    assert f"go on with `dfm train --resume {running.path}`" in err
    step = load_newest(running.path)[0].step
    assert f"trained to step {step + 2};" in dfm("train", "--resume", running.path, "--max-steps", step + 2).out


@linux
@pytest.mark.slow
def test_processes_do_not_outlive_their_launcher(running: Running) -> None:
    children = running.children()
    running.process.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert load_newest(running.path)[0].step > 0


@linux
@pytest.mark.slow
def test_torchrun_and_its_signals(tmp_path: Path, dfm: Dfm) -> None:
    started = Running([*TORCHRUN, "2", "-m", "dfm_core"], tmp_path / "run")
    started.process.send_signal(signal.SIGTERM)
    code, out, err = started.end()
    assert code != 0
    (step,) = map(int, re.findall(r"^stopped after step (\d+); checkpoint ", out, re.MULTILINE))
    assert load_newest(started.path)[0].step == step, err
    assert f"trained to step {step + 1};" in dfm("train", "--resume", started.path, "--max-steps", step + 1).out


@linux
@pytest.mark.slow
def test_a_killed_process_of_torchrun_ends_the_others(tmp_path: Path, dfm: Dfm) -> None:
    started = Running([*TORCHRUN, "2", "-m", "dfm_core"], tmp_path / "run")
    os.kill(started.children()[1], signal.SIGKILL)
    code, _, err = started.end()
    assert code != 0
    assert "ended while it trained" in err
    assert f"go on with `dfm train --resume {started.path}`" in err
    step = load_newest(started.path)[0].step
    assert f"trained to step {step + 2};" in dfm("train", "--resume", started.path, "--max-steps", step + 2).out


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in ```bash blocks, made smaller; ```sh blocks are for clusters."""
    monkeypatch.chdir(tmp_path)
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL) for line in block.splitlines()
    ]
    assert len(lines) >= 4
    for number, line in enumerate(lines):
        words = shlex.split(line)
        steps = [*(() if "--resume" in words else TINY), "--max-steps", str(2 + number)]
        start = {"dfm": DFM, "torchrun": [sys.executable, "-m", "torch.distributed.run"]}[words[0]]
        done = run(*start, *words[1:], *steps)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
