"""`dfm plot`: the picture of one run and of several, and everything that cannot be drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_tools import Dfm, Rejected, read_picture


def write_run(path: Path, lines: list[dict[str, Any]]) -> Path:
    """A run's folder with these lines of metrics, and an empty configuration."""
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text("{}")
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def line(step: int, stages: int) -> dict[str, Any]:
    parts = {f"stage_{index + 1}": 1 / step for index in range(stages)}
    by_t = {name: {"0.05": 1.0, "0.95": 0.5} for name in parts}
    return {"step": step, "loss": 1.0, "parts": parts, "loss_by_t": by_t, "grad_norm": 2.0, "images_per_second": None}


def test_a_run_is_drawn_into_its_folder(dfm: Dfm, run: Path) -> None:
    result = dfm("plot", run)
    assert result.out == f"wrote {run / 'curves.png'}\n"
    assert result.err == ""
    picture = read_picture(run / "curves.png")
    assert len(set(map(tuple, picture.reshape(-1, 3)[::97].tolist()))) > 10


def test_the_usual_curves(dfm: Dfm, tmp_path: Path) -> None:
    validation = {"step": 2, "validation": {"loss": 1.0, "stage_1": 1.0}}
    run = write_run(tmp_path / "run", [line(1, 2), {**line(2, 2), "images_per_second": 3.0}, validation])
    result = dfm("plot", run, "--output", tmp_path / "new" / "picture.png", "--smooth", 3, "--log", "--json")
    assert result.json == {
        "picture": str(tmp_path / "new" / "picture.png"),
        "runs": ["run"],
        "keys": [
            *("loss", "parts/stage_1", "parts/stage_2", "validation/loss", "grad_norm", "images_per_second"),
            *("loss_by_t/stage_1", "loss_by_t/stage_2"),
        ],
        "left_out": {},
    }
    height, width = read_picture(tmp_path / "new" / "picture.png").shape[:2]
    assert (width, height) == (1584, 1116)  # three panels in three rows


def test_several_runs_share_what_they_share(dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    two = write_run(tmp_path / "two", [line(1, 2), line(2, 2)])
    three = write_run(tmp_path / "three", [line(1, 3)])
    result = dfm("plot", two, three, two, "--json")
    assert result.json["runs"] == ["two", "three"]
    assert result.json["picture"] == "curves.png"
    assert result.json["keys"] == [
        *("loss", "parts/stage_1", "parts/stage_2", "grad_norm", "loss_by_t/stage_1", "loss_by_t/stage_2")
    ]
    assert result.json["left_out"] == {"parts/stage_3": ["two"], "loss_by_t/stage_3": ["two"]}
    assert "left out: parts/stage_3, which two has not" in result.err
    asked = dfm("plot", two, three, "--keys", "parts/stage_3, loss", "--json")
    assert asked.json["keys"] == ["parts/stage_3", "loss"]
    assert "left out" not in asked.err
    assert "parts/stage_3, which two has not" in asked.err


def test_what_cannot_be_drawn(rejected: Rejected, run: Path, tmp_path: Path) -> None:
    assert "is not the folder of a run" in rejected("plot", tmp_path / "nothing", code=1)
    empty = write_run(tmp_path / "empty", [])
    assert "has no numbers yet: the first line of metrics.jsonl comes after" in rejected("plot", run, empty, code=1)
    message = rejected("plot", run, "--keys", "loss,grad_nrom")
    assert "no run has 'grad_nrom'. Did you mean 'grad_norm', 'grad_norms'" in message
    assert "There is loss, parts/stage_1," in message
    assert "expected names separated by commas, like loss,parts; got none" in rejected("plot", run, "--keys", ",")
    assert "'pgn' cannot be written. Did you mean 'png'" in rejected("plot", run, "--output", tmp_path / "a.pgn")
    assert "is a folder" in rejected("plot", run, "--output", tmp_path)
    other = write_run(tmp_path / "other", [{"step": 1, "mine": 2.0}])
    assert "share none of the curves that are usually drawn: choose with --keys" in rejected("plot", run, other)


def test_a_picture_that_cannot_be_written(rejected: Rejected, run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in rejected("plot", run, "--output", tmp_path / "file" / "a.png", code=1)


def test_runs_of_the_same_name_are_told_apart(dfm: Dfm, run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(run, tmp_path / name / "run")
    result = dfm("plot", tmp_path / "a" / "run", tmp_path / "b" / "run", "--output", tmp_path / "x.png", "--json")
    assert result.json["runs"] == ["a/run", "b/run"]
