"""What lies in a run: nothing that could run code, nothing half written; stopping in time from the command line."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from command_tools import TINY, Dfm
from safetensors import safe_open

from dfm_core.training.checkpoint import list_checkpoints

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
KNOWN = {".safetensors", ".json", ".jsonl", ".yaml", ".png"}


def test_nothing_in_a_run_is_a_pickle(dfm: Dfm, tmp_path: Path) -> None:
    sets = ["logging.tensorboard=true", "logging.sample_every=2", "sampling.num=1", "logging.checkpoint_every=1"]
    flags = [part for setting in sets for part in ("--set", setting)]
    dfm("train", *TINY, *flags, "--max-steps", 2, "--output", tmp_path / "run")
    dfm("export", tmp_path / "run", tmp_path / "exported")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= KNOWN
    for path in files:
        content = path.read_bytes()
        assert not zipfile.is_zipfile(path), path
        assert not re.match(rb"\x80[\x02-\x05]", content), path
        assert path.suffix in KNOWN or "tfevents" in path.name, path
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                assert tensors.keys()
        if path.suffix == ".json":
            json.loads(content)


def test_going_on_and_loading_unpickle_nothing(
    dfm: Dfm, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("something was unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refused)
    dfm("train", "--resume", run, "--max-steps", 7, "--set", "workers=0")
    dfm("sample", run, "--num", 1, "--output", tmp_path / "samples")
    dfm("export", run, tmp_path / "exported")
    dfm("sample", tmp_path / "exported", "--num", 1, "--output", tmp_path / "more")


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(dfm: Dfm, run: Path) -> None:
    newest = list_checkpoints(run)[-1] / "state.json"
    newest.write_bytes(newest.read_bytes().replace(b'"step": 6', b'"step": 9', 1))
    said = dfm("train", "--resume", run)
    assert "step_00000006 is damaged: state.json is not as it was written; using the older step_00000004" in " ".join(
        said.err.split()
    )
    assert "trained to step 6" in said.out


def test_a_line_of_the_log_that_was_cut_off_is_dropped(dfm: Dfm, run: Path) -> None:
    before = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(before + '{"step": 7, "lo')
    dfm("train", "--resume", run, "--max-steps", 8)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]


def test_max_minutes(dfm: Dfm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped = dfm("train", *TINY, "--max-steps", 4, "--max-minutes", 0.0001, "--output", run)
    assert stopped.lines[-2:] == [
        f"stopped after step 1 (training.max_minutes); checkpoint {run / 'checkpoints' / 'step_00000001'}",
        f"go on with:  dfm train --resume {run}",
    ]
    assert "stopped after step 2 (training.max_minutes)" in dfm("train", "--resume", run).out
    assert "trained to step 4" in dfm("train", "--resume", run, "--max-minutes", 60).out


def test_minutes_that_make_no_sense(dfm: Dfm, tmp_path: Path) -> None:
    for minutes in (0, -1, "soon"):
        assert "max" in dfm("train", *TINY, "--max-minutes", minutes, "--output", tmp_path / "run", code=2).err
    assert not (tmp_path / "run").exists()


def test_the_commands_of_the_page(dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    said = []
    for line in block.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "dfm"
        said.append(dfm(*arguments, *([] if "--resume" in arguments else TINY)).out)
    assert "trained to step 6" in said[0]
    assert "trained to step 8" in said[1]
    assert all("(training.max_minutes)" in text for text in said[2:])


def test_events_that_were_cut_off_do_not_hide_later_ones(dfm: Dfm, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    path = tmp_path / "run"
    dfm("train", *TINY, "--set", "logging.tensorboard=true", "--max-steps", 4, "--output", path)
    (events,) = (path / "tensorboard").iterdir()
    events.write_bytes(events.read_bytes()[:-5])
    time.sleep(1.1)  # files of one process and one second are read in the order of the numbers' first digits
    dfm("train", "--resume", path, "--max-steps", 8)
    shown = accumulator.EventAccumulator(str(path / "tensorboard"))
    shown.Reload()
    assert {event.step for event in shown.Scalars("loss")} >= {2, 6, 8}
