"""wandb, trackio and what happens when a sink fails; the real packages where they are installed, without a network."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from toy_training import Recorder, assert_equal_runs, lines, make, newest

from dfm_core.config.settings import LoggingSettings
from dfm_core.errors import DFMError, UsageError
from dfm_core.training import metrics_log, sinks
from dfm_core.training.metrics_log import MetricsLog, read_metrics
from dfm_core.training.run_directory import RunDirectory
from dfm_core.training.sinks import Sink, check_sinks, identity_of


class Fake(Sink):
    """Keeps what it is sent; fails at the steps in `bad`."""

    def __init__(self, bad: tuple[int, ...] = (), bad_end: bool = False) -> None:
        self.sent: list[tuple[int, Mapping[str, float]]] = []
        self.bad, self.bad_end = bad, bad_end
        self.ended: bool | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step in self.bad:
            raise ConnectionError("no network\ntraceback")
        self.sent.append((step, values))

    def close(self, failed: bool) -> None:
        self.ended = failed
        if self.bad_end:
            raise TimeoutError("too late")


def use(monkeypatch: pytest.MonkeyPatch, sink: Fake | Exception) -> None:
    def open_sink(*_arguments: object) -> Sink:
        if isinstance(sink, Exception):
            raise sink
        return sink

    monkeypatch.setattr(metrics_log, "open_sink", open_sink)


def warnings(reporter: object) -> list[str]:
    assert isinstance(reporter, Recorder)
    return reporter.warnings


def test_a_sink_gets_the_numbers_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Fake()
    use(monkeypatch, sink)
    trainer = make(tmp_path, sinks=["wandb"], validate=lambda: {"loss": 0.25}, validation_every=8)
    trainer.train()
    assert [step for step, _ in sink.sent] == [4, 8, 8, 10]
    first = read_metrics(trainer.run)[0]
    assert sink.sent[0][1]["parts/stage_1"] == first["parts"]["stage_1"]
    assert sink.sent[0][1]["loss_by_t/stage_2/0.25"] == first["loss_by_t"]["stage_2"]["0.25"]
    assert sink.sent[2][1] == {"validation/loss": 0.25}
    assert sink.ended is False


def test_a_sink_that_fails_is_a_warning_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "plain", log_every=1).train()
    sink = Fake(bad=(3, 4, 7), bad_end=True)
    use(monkeypatch, sink)
    trainer = make(tmp_path / "failing", sinks=["wandb"], log_every=1)
    trainer.train()
    assert [step for step, _ in sink.sent] == [1, 2, 5, 6, 8, 9, 10]
    again = "wandb fails (no network); training goes on and tries it again at every line"
    assert warnings(trainer.reporter) == [
        again,
        again,
        "wandb could not be closed (too late); its last numbers may be missing",
    ]
    assert lines(tmp_path / "failing") == lines(tmp_path / "plain")
    assert_equal_runs(tmp_path / "failing", tmp_path / "plain")


def test_a_sink_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, RuntimeError("not logged in"))
    with pytest.raises(DFMError, match=r"wandb cannot be opened \(not logged in\); without it, leave it out"):
        make(tmp_path / "new", sinks=["wandb"]).train()
    make(tmp_path / "old", max_steps=5).train()
    trainer = make(tmp_path / "old", sinks=["wandb"])
    assert trainer.train(newest(tmp_path / "old")).step == 10
    assert "wandb cannot be opened (not logged in); training goes on without it" in warnings(trainer.reporter)


def test_a_run_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Fake()
    use(monkeypatch, sink)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path, sinks=["wandb"], validation_every=4, validate=lambda: {"loss": 1 / 0}).train()
    assert sink.ended is True


def test_what_a_service_has_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, run = Fake(), RunDirectory(tmp_path)
    use(monkeypatch, sink)
    for resumed_at in (0, 20):
        log = MetricsLog(run, LoggingSettings(tensorboard=False, sinks=("wandb", "wandb")))
        log.open(resumed_at)
        for step in range(resumed_at + 10, 41 if resumed_at else 31, 10):
            log.write(step, {"loss": 1.0})
        log.close()
    assert [step for step, _ in sink.sent] == [10, 20, 30, 40]
    assert [line["step"] for line in read_metrics(run)] == [10, 20, 30, 40]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    check_sinks(())
    with pytest.raises(UsageError, match=r"wandb is not installed: pip install 'decomposable-flow-matching\[log\]'"):
        check_sinks(["wandb"])
    with pytest.raises(UsageError, match="wandb and trackio are not installed"):
        check_sinks(["wandb", "trackio"])


def test_a_run_keeps_its_identity(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    identity = identity_of(run, None)
    assert identity.name == tmp_path.name
    assert identity_of(run, "another name") == identity
    (tmp_path / sinks.IDENTITY_FILE).write_text("{")
    with pytest.raises(UsageError, match=r"sinks.json is damaged .*delete it"):
        identity_of(run, None)


def train_and_resume(folder: Path, name: str) -> None:
    make(folder, max_steps=5, sinks=[name], run_name="shapes").train()
    time.sleep(1.1)  # wandb names its folder by the second: begun in the same one, the two parts would share it
    make(folder, sinks=[name]).train(newest(folder))


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_and_resume(tmp_path / "run", "wandb")
    number = json.loads((tmp_path / "run" / "sinks.json").read_text())["id"]
    parts = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{number}/run-{number}.wandb"))
    assert len(parts) == 2  # of one run: `wandb sync` puts them together
    deadline = time.monotonic() + 10  # its own process writes, and may do so a little later
    while time.monotonic() < deadline and not all(b"grad_norms/stage_1" in part.read_bytes() for part in parts):
        time.sleep(0.05)
    for part in parts:
        assert b"grad_norms/stage_1" in part.read_bytes()
        assert b"shapes" in part.read_bytes()
    assert capsys.readouterr().out == ""


def test_wandb_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(**_settings: object) -> None:
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(DFMError, match=r"wandb login.*WANDB_MODE=offline works without"):
        make(tmp_path / "run", sinks=["wandb"]).train()


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    folder = Path(trackio.utils.TRACKIO_DIR)  # read when it is imported
    capsys.readouterr()
    train_and_resume(tmp_path / "run", "trackio")
    assert capsys.readouterr().out == ""
    identity = json.loads((tmp_path / "run" / "sinks.json").read_text())
    with sqlite3.connect(folder / "dfm.db") as database:
        found = database.execute(
            "SELECT step, run_id FROM metrics WHERE run_name = ? ORDER BY step", (f"shapes-{identity['id'][:4]}",)
        ).fetchall()
    assert [step for step, _ in found] == [4, 5, 8, 10]
    assert len({number for _, number in found}) == 1
