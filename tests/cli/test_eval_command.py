"""`dfm eval`: the table, JSON and files; wrong requests; a real kill and two real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_tools import Dfm, Rejected, write_picture

QUICK = [
    *("--metrics", "spectrum,fd", "--device", "cpu", "--steps", "2,2", "--reference-num", "40"),
    *("--set", "fd.steps=3", "--set", "fd.resamples=3", "--set", "spectrum.resamples=3"),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_table_and_files(run: Path, dfm: Dfm) -> None:
    result = dfm("eval", run, *QUICK, "--num", 20, "--cfg", "1,1.5,1")
    rows = [line.split() for line in result.lines]
    assert result.lines[0].split("  ")[0] == "samples"
    assert [row[:2] for row in rows if row[0].startswith("cfg_")] == [
        ["cfg_1", "spectrum"],
        ["cfg_1", "fd"],
        ["cfg_1.5", "spectrum"],
        ["cfg_1.5", "fd"],
    ]
    assert "spectrum_4" in result.out
    assert "network classifier of 8 classes, seed 0, accuracy" in result.out
    assert "warning: fd: 20 samples for features of 64 dimensions" in result.err
    folder = run / "evaluation" / "0001"
    assert f"wrote {folder / 'results.json'}" in result.out
    assert {path.name for path in folder.iterdir()} == {"results.json", "grid_cfg_1.png", "grid_cfg_1.5.png"}


def test_json_says_the_same_as_the_file_and_a_second_time(run: Path, dfm: Dfm, tmp_path: Path) -> None:
    first = dfm("eval", run, *QUICK, "--num", 10, "--json", "--output", tmp_path / "out").json
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {key: value for key, value in first.items() if key in written} == written
    assert first["folder"] == str(tmp_path / "out")
    second = dfm("eval", run, *QUICK, "--num", 10, "--json").json
    assert second["rows"] == first["rows"]
    made_with = first["rows"][0]["made_with"]
    assert set(made_with) == {"weights", "model", "schedule", "solver", "cfg", "cfg_interval", "seed"}


def test_folders(photos: Path, tmp_path: Path, dfm: Dfm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for index in range(5):
        write_picture(tmp_path / "made" / f"{index}.png", 100 + index, 16, 16)
    result = dfm("eval", "--samples", "made", "--reference", photos, "--metrics", "spectrum", "--quiet")
    assert "5 / 24" in result.out
    assert (tmp_path / "evaluations" / "0001" / "grid_samples.png").is_file()
    assert result.err == ""


def test_wrong_requests(run: Path, rejected: Rejected, tmp_path: Path, photos: Path, unlabelled: Path) -> None:
    assert "expected either a RUN or --samples FOLDER" in rejected("eval")
    assert "expected either a RUN or --samples FOLDER" in rejected("eval", run, "--samples", photos)
    assert "needs real images to compare with: --reference FOLDER" in rejected("eval", "--samples", photos)
    said = rejected("eval", "--samples", photos, "--reference", photos, "--cfg", "2", "--solver", "heun")
    assert said.startswith("--cfg, --solver: a folder of samples is measured as it is")
    assert "unknown metric 'fdi'. Did you mean 'fd'" in rejected("eval", run, "--metrics", "fdi")
    assert "fd.step: unknown key. Did you mean 'steps'" in rejected("eval", run, "--set", "fd.step=3")
    for wrong in ("steps=3", "fid.path=x", "fd", "fd.=3"):
        assert "expected METRIC.OPTION=VALUE with one of the metrics" in rejected("eval", run, "--set", wrong)
    assert "--metrics: expected names separated by commas" in rejected("eval", run, "--metrics", ",")
    assert "--cfg: expected finite numbers of at least 0" in rejected("eval", run, "--cfg", "1,-2")
    assert "--cfg: expected numbers separated by commas" in rejected("eval", run, "--cfg", "high")
    assert "exists already; choose another --output" in rejected("eval", run, "--output", photos)
    assert "fid.path: expected a value, got none" in rejected("eval", run, "--metrics", "fid")
    assert "expected a folder of images" in rejected("eval", run, "--reference", tmp_path / "nowhere", code=1)
    assert "guidance (cfg other than 1) needs labels" in rejected("eval", unlabelled, *QUICK, "--cfg", "2")
    assert not (run / "evaluation").exists()


def test_a_number_of_images_that_the_reference_has_not(photos: Path, rejected: Rejected) -> None:
    said = rejected("eval", "--samples", photos, "--reference", photos, "--num", "25", code=1)
    assert "expected at least 25 images" in said


def start(run: Path, *more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dfm_core", "eval", str(run), *QUICK, *map(str, more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def numbers(text: str) -> object:
    return json.loads(text)["rows"]


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_number(run: Path, dfm: Dfm, tmp_path: Path) -> None:
    expected = dfm("eval", run, *QUICK, "--num", 640, "--json", "--output", tmp_path / "whole").json["rows"]
    samples = next((run / "evaluation" / "samples").iterdir())
    for file in samples.glob("*.safetensors"):
        file.unlink()
    process = start(run, "--num", 640, "--json")
    while len(list(samples.glob("*.safetensors"))) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {file.name: file.stat().st_mtime_ns for file in samples.glob("*.safetensors")}
    assert 3 <= len(kept) < 10
    assert dfm("eval", run, *QUICK, "--num", 640, "--json").json["rows"] == expected
    assert kept == {name: (samples / name).stat().st_mtime_ns for name in kept}


@pytest.mark.slow
def test_two_processes_give_the_number_of_one(run: Path, dfm: Dfm, tmp_path: Path) -> None:
    process = start(run, "--num", 200, "--json", "--nproc", 2, "--cache", tmp_path / "other")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    expected = dfm("eval", run, *QUICK, "--num", 200, "--json", "--output", tmp_path / "one").json
    assert numbers(out) == expected["rows"]
