"""`dfm bench` as users run it, with little time for each section."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from command_tools import TINY, Dfm, Rejected

from dfm_core.bench import measure


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds instead of a minute."""
    effort = measure.Effort(seconds=0.1, step_seconds=0.05, steps=(1, 2), compiles=False)
    monkeypatch.setattr(measure, "QUICK", effort)
    monkeypatch.setattr(measure, "THOROUGH", effort)


def test_the_tables(dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = dfm("bench", *TINY, "--quick")
    titles = ("A step of 4 images, float32", "Comparisons", "Ways to run it, batch ", "Batch sizes")
    assert all(any(line.startswith(title) for line in result.lines) for title in titles)
    assert any(line.startswith("decomposition ") for line in result.lines)
    assert any(line.startswith("plain flow matching over itself ") for line in result.lines)
    assert any("of other work (see below)" in line for line in result.lines) == ("the networks differ" in result.out)
    assert result.lines[-1].startswith("recommended: --batch-size ")
    assert "step by part" in result.err
    assert os.listdir(tmp_path) == []


def test_json(dfm: Dfm) -> None:
    values = dfm("bench", *TINY, "--quick", "--json", "--quiet").json
    assert set(values["step"]["parts"]) == {"data", "decomposition", "forward", "backward", "optimiser", "EMA"}
    assert values["plain"]["ratio"]["low"] <= values["plain"]["ratio"]["high"]
    assert values["variants"][0]["name"] == "eager float32"
    assert values["recommended"]["batch_size"] >= 1
    assert values["machine"]["device"] == "cpu"


def test_without_labels_and_with_one_stage(dfm: Dfm, photos: Path) -> None:
    one_stage = ["--decomposition", "identity", "--stages", "16", "--data", str(photos)]
    result = dfm("bench", *TINY, *one_stage)
    assert "one stage: this is plain flow matching" in result.out


def test_bad_input(rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "stages" in rejected("bench", *TINY, "--stages", "16,8")
    assert "expected" in rejected("bench", *TINY, "--set", "training.learning_rate=0")
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in rejected("bench", *TINY, "--data", tmp_path / "empty", code=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "run it without a launcher" in rejected("bench", *TINY)
