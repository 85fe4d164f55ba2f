"""The folder of a run, and metrics.jsonl in it."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

import pytest
import torch
import yaml

from dfm_core.config.settings import LoggingSettings
from dfm_core.errors import CheckpointError, NonFiniteLossError, UsageError
from dfm_core.loss_report import LossReport
from dfm_core.training.loss_window import LossWindow
from dfm_core.training.metrics_log import PROVISIONAL, MetricsLog, read_metrics
from dfm_core.training.run_directory import RunDirectory


def test_default_name_has_time_and_name(tmp_path: Path) -> None:
    run = RunDirectory.create(None, "laplacian 256/1024", root=tmp_path / "runs")
    assert re.fullmatch(r"\d{8}-\d{6}-laplacian-256-1024", run.path.name)
    assert run.samples.is_dir()


def test_two_runs_in_one_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _format: "20260101-000000")
    names = [RunDirectory.create(None, "a", root=tmp_path).path.name for _ in range(3)]
    assert names == ["20260101-000000-a", "20260101-000000-a-2", "20260101-000000-a-3"]


def test_an_explicit_folder_that_exists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"exists; continue that run with `dfm train --resume .*--output"):
        RunDirectory.create(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot create the run folder"):
        RunDirectory.create(tmp_path / "file" / "run")


def test_config_and_open(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(CheckpointError, match="is not the folder of a run"):
        RunDirectory.open(run.path)
    config = {"b": {"x": (1, 2.5)}, "a": None, "name": "größe"}
    run.write_config(config)
    assert yaml.safe_load(run.config.read_text(encoding="utf-8")) == {"b": {"x": [1, 2.5]}, "a": None, "name": "größe"}
    assert list(yaml.safe_load(run.config.read_text(encoding="utf-8"))) == ["b", "a", "name"]
    assert RunDirectory.open(run.path) == run
    with pytest.raises(CheckpointError):
        RunDirectory.open(tmp_path / "nothing")


def test_metrics_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    log = MetricsLog(run, LoggingSettings(tensorboard=False))
    log.open(0)
    assert read_metrics(run) == []
    for step in (10, 20, 30):
        log.write(step, {"loss": 1.0, "parts": {"a": math.inf}})
    log.write(15, {"loss": 2.0, PROVISIONAL: True})
    with run.metrics.open("a") as stream:
        stream.write('{"step": 20, "lo')  # killed in the middle of a line
    MetricsLog(run, LoggingSettings(tensorboard=False)).open(20)
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [10, 20]
    assert read_metrics(run)[0] == {"step": 10, "loss": 1.0, "parts": {"a": None}}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def report(loss: float, sums: tuple[float, float], counts: tuple[float, float]) -> LossReport:
    return LossReport(torch.tensor(loss), torch.tensor([sums, counts]), ("coarse", "fine"))


def test_window_averages_over_samples_not_steps() -> None:
    window = LossWindow()
    window.append(report(1.0, (8.0, 1.0), (4, 1)), torch.tensor(0.5))
    window.append(report(3.0, (1.0, 0.0), (1, 0)), torch.tensor(0.7))
    assert len(window) == 2
    window.read()
    window.read()
    assert window.averages() == (2.0, {"coarse": 9 / 5, "fine": 1.0})
    assert window.last == pytest.approx((3.0, 0.7))
    copy = LossWindow()
    copy.load(json.loads(json.dumps(window.state())))
    assert copy.averages() == window.averages()
    window.restart(2)
    assert len(window) == 0


def test_window_without_parts() -> None:
    window = LossWindow()
    window.append(LossReport(torch.tensor(1.5), torch.zeros(2, 0), ()), torch.tensor(0.5))
    window.read()
    assert window.averages() == (1.5, {})


def test_window_names_the_first_bad_step() -> None:
    window = LossWindow()
    window.restart(40)
    for sums in ((1.0, 1.0), (math.nan, 1.0), (math.nan, math.nan)):
        window.append(report(sum(sums), sums, (1, 1)), torch.tensor(1.0))
    with pytest.raises(NonFiniteLossError, match=r"the loss of coarse is nan at step 42 .*from 41 on"):
        window.read()


def test_window_names_the_loss_if_no_part_is_bad() -> None:
    window = LossWindow()
    window.append(report(math.inf, (1.0, 1.0), (1, 1)), torch.tensor(1.0))
    with pytest.raises(NonFiniteLossError, match=r"^the loss is inf at step 1 "):
        window.read()
