"""`dfm runs`: tables, JSON, empty and missing folders; and that it needs no torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_tools import TINY, Dfm, Rejected

from dfm_core.cli.runs import write_age


def test_a_table(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "sweep" / "one")
    shutil.copytree(trained, tmp_path / "two")
    (tmp_path / "two" / "status.json").write_text(
        json.dumps({"state": "failed", "process": {"machine": "m", "number": 1, "started": ""}, "error": "no memory"})
    )
    result = dfm("runs", tmp_path)
    assert result.lines[0].split() == ["run", "state", "step", "loss", "images/s", "age", "decomposition", "stages"]
    rows = {Path(line.split()[0]).name: line.split() for line in result.lines[1:]}
    assert rows["one"][1:3] == ["finished", "6/6"]
    assert rows["one"][-2:] == ["laplacian", "8,16"]
    assert float(rows["one"][3]) > 0
    assert rows["two"][1] == "failed"
    assert f"{tmp_path / 'two'} failed: no memory" in result.err


def test_json(dfm: Dfm, trained: Path) -> None:
    (summary,) = dfm("runs", trained, "--json").json
    assert summary["path"] == str(trained)
    assert (summary["state"], summary["step"], summary["max_steps"], summary["error"]) == ("finished", 6, 6, None)
    assert set(summary) == {
        *("path", "state", "step", "max_steps", "loss", "images_per_second", "age", "decomposition", "stages", "error"),
    }


def test_no_runs(dfm: Dfm, rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = dfm("runs")
    assert result.out == ""
    assert result.err == "no runs in runs; `dfm train` makes one\n"
    assert dfm("runs", "--json").json == []
    assert "no runs in" in dfm("runs", tmp_path).err
    assert "nowhere is not a folder; expected one with runs in it" in rejected("runs", "nowhere")


def test_a_run_that_fails_is_called_that(dfm: Dfm, tmp_path: Path) -> None:
    flags = ["--max-steps", "8", "--set", "training.learning_rate=1e30", "--set", "training.clip_norm=null"]
    sets = ["--set", "training.warmup_steps=0", "--set", "logging.log_every=1"]
    dfm("train", *TINY, *flags, *sets, "--output", tmp_path / "run", code=1)
    (summary,) = dfm("runs", tmp_path, "--json").json
    assert summary["state"] == "failed"
    assert "at step" in summary["error"]


@pytest.mark.parametrize(("arguments", "unwanted"), [(["runs"], {"torch", "numpy"}), (["plot", "--json"], {"torch"})])
def test_reading_runs_needs_no_torch(arguments: list[str], unwanted: set[str], run: Path) -> None:
    code = f"""
import sys
from dfm_core.cli.app import main
code = main([*{arguments!r}, {str(run)!r}])
heavy = {unwanted!r} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (130, "2 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert write_age(seconds) == text
