"""What `dfm runs` reads from folders: states of living, finished, stopped, killed and failed runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfm_core.errors import UsageError
from dfm_core.runs.listing import list_runs, stages_text, summarise
from dfm_core.runs.status import ProcessIdentity, RunStatus, check_not_training, read_status, recorded_status
from dfm_core.training.run_directory import RunDirectory

CONFIG = {
    "stages": [[16, 16], [32, 48]],
    "decomposition": {"name": "acme/steerable", "options": {}},
    "training": {"max_steps": 100},
}
ELSEWHERE = ProcessIdentity("another machine", 1, "5")


def make_run(path: Path, steps: tuple[int, ...] = (10, 20), config: Any = CONFIG, checkpoint: int = 0) -> RunDirectory:
    run = RunDirectory(path)
    run.checkpoints.mkdir(parents=True)
    run.config.write_text(yaml.safe_dump(config))
    lines = [{"step": step, "loss": 1 / step, "images_per_second": 8.5} for step in steps]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if checkpoint:
        (run.checkpoints / f"step_{checkpoint:08d}").mkdir()
    return run


def make_old(run: RunDirectory, seconds: float) -> None:
    for path in (run.metrics, run.status, run.checkpoints, run.config):
        if path.exists():
            os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def dead() -> ProcessIdentity:
    """A process of this machine that has ended."""
    own = ProcessIdentity.own()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return ProcessIdentity(own.machine, process.pid, own.started)


def test_a_run_at_a_glance(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", checkpoint=25)
    with run.metrics.open("a") as stream:
        stream.write('{"step": 30, "validation": {"loss": 9.0}}\n{"step": 40, "lo')
    make_old(run, 3600)
    summary = summarise(run)
    assert summary.path == str(tmp_path / "a")
    assert (summary.step, summary.max_steps, summary.loss, summary.images_per_second) == (25, 100, 0.05, 8.5)
    assert (summary.decomposition, summary.stages) == ("acme/steerable", "16,32x48")
    assert summary.age == pytest.approx(3600, abs=60)
    assert (summary.state, summary.error) == ("interrupted", None)


def test_states_of_processes_on_this_machine(tmp_path: Path, dead: ProcessIdentity) -> None:
    run = make_run(tmp_path / "a")
    RunStatus("training").write(run)
    make_old(run, 86_400)
    assert summarise(run).state == "training"  # a step may take long
    RunStatus("training", dead).write(run)
    assert summarise(run).state == "interrupted"  # killed
    own = ProcessIdentity.own()
    RunStatus("training", ProcessIdentity(own.machine, own.number, own.started + "0")).write(run)
    assert summarise(run).state == ("interrupted" if own.started else "training")  # the number is used again
    RunStatus("training", dead).write(make_run(tmp_path / "b", (100,)))
    assert summarise(RunDirectory(tmp_path / "b")).state == "finished"  # killed when all was done


def test_states_of_processes_elsewhere(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    RunStatus("training", ELSEWHERE).write(run)
    assert summarise(run).state == "training"
    make_old(run, 3600)
    assert summarise(run).state == "interrupted"


def test_states_without_a_status(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    assert summarise(run).state == "training"
    make_old(run, 3600)
    assert summarise(run).state == "interrupted"
    assert summarise(make_run(tmp_path / "b", (100,))).state == "finished"
    run.status.write_text("{")
    make_old(run, 3600)
    assert summarise(run).state == "interrupted"


def test_the_end_of_a_run_is_recorded(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with recorded_status(run) as status:
        assert summarise(run).state == "training"
        status.state = "finished"
    assert summarise(run).state == "finished"
    with pytest.raises(ZeroDivisionError), recorded_status(run):
        raise ZeroDivisionError("the reason\nand more")
    assert (summarise(run).state, summarise(run).error) == ("failed", "the reason")
    with pytest.raises(KeyboardInterrupt), recorded_status(run):
        raise KeyboardInterrupt
    assert (summarise(run).state, summarise(run).error) == ("interrupted", None)
    with recorded_status(run, records=False) as status:
        status.state = "finished"
    assert summarise(run).state == "interrupted"


def test_a_status_that_cannot_be_written_does_not_stop_the_run(tmp_path: Path) -> None:
    with recorded_status(RunDirectory(tmp_path / "gone")) as status:
        status.state = "finished"
    assert read_status(RunDirectory(tmp_path / "gone")) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the start of a process from /proc")
def test_two_processes_do_not_train_one_run(tmp_path: Path, dead: ProcessIdentity) -> None:
    run = make_run(tmp_path / "a")
    for process in (dead, ELSEWHERE, ProcessIdentity.own()):
        RunStatus("training", process).write(run)
        check_not_training(run)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = (Path("/proc") / str(process.pid) / "stat").read_text().rpartition(")")[2].split()[19]
        RunStatus("training", ProcessIdentity(ProcessIdentity.own().machine, process.pid, started)).write(run)
        with pytest.raises(UsageError, match=f"is being trained by process {process.pid}: wait for its end"):
            check_not_training(run)
        process.kill()
        time.sleep(0.2)
        check_not_training(run)  # dead, though nobody has asked for it yet


def test_runs_are_found_at_any_depth_and_sorted_by_activity(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "sweep/a", "sweep/b/c", ".hidden/run", "too/deep/by/far"]):
        make_old(make_run(tmp_path / name), 1000 * (age + 1))
    make_run(tmp_path / "new" / "inner")
    (tmp_path / "file").write_text("")
    assert [summary.path for summary in list_runs(tmp_path)] == [
        str(tmp_path / name) for name in ("new", "sweep/a", "sweep/b/c")
    ]
    assert [summary.path for summary in list_runs(tmp_path / "new")] == [str(tmp_path / "new")]
    with pytest.raises(UsageError, match="is not a folder"):
        list_runs(tmp_path / "file")


@pytest.mark.parametrize("config", ["not a mapping", {}, {"training": 3, "stages": [[5]], "decomposition": None}])
def test_damaged_runs_are_listed_with_what_is_known(tmp_path: Path, config: Any) -> None:
    run = make_run(tmp_path / "a", steps=(), config=config, checkpoint=7)
    summary = summarise(run)
    assert (summary.step, summary.loss, summary.decomposition) == (7, None, None)
    run.config.write_text("{")
    run.metrics.unlink()
    assert summarise(run).max_steps is None


def test_sizes() -> None:
    assert stages_text([[8, 32, 32], [8, 64, 64]]) == "8x32x32,8x64x64"
    assert stages_text(None) is None


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=tuple(range(1, 20_000)))
    start = time.perf_counter()
    assert summarise(run).step == 19_999
    assert time.perf_counter() - start < 0.5
