"""`dfm eval`: the table, JSON and files; wrong requests; a real kill and two real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_tools import TINY, Dfm, Rejected, write_picture

QUICK = [
    *("--metrics", "spectrum,fd", "--device", "cpu", "--steps", "2,2", "--reference-num", "40"),
    *("--set", "fd.steps=3", "--set", "fd.resamples=3", "--set", "spectrum.resamples=3"),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def run_of_clips(tmp_path: Path, dfm: Dfm) -> Path:
    """A run of two steps on clips of four frames."""
    flags = ["--dataset", "moving_shapes", "--backbone", "video_dit", "--frames", 4, "--max-steps", 2, "--quiet"]
    dfm("train", *TINY, *flags, "--output", tmp_path / "clips")
    return tmp_path / "clips"


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
    assert "network classifier of 8 classes, resolution 64, seed 0, accuracy" in result.out
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


def test_a_run_of_clips(run_of_clips: Path, photos: Path, dfm: Dfm, rejected: Rejected, tmp_path: Path) -> None:
    quick = ["--steps", "1,1", "--num", 9, "--reference-num", 12, "--set", "fd.steps=2", "--set", "fd.resamples=0"]
    result = dfm("eval", run_of_clips, *quick, "--device", "cpu")
    heads = [line.split()[1] for line in result.lines if line.startswith("cfg_")]
    assert heads == ["swd", "spectrum", "fd", "motion"]
    assert {"motion_1", "motion_2"} <= {line.split()[0] for line in result.lines}
    assert "real clips" in result.lines[0]
    assert "9 of 9 clips" in result.err
    folder = run_of_clips / "evaluation" / "0001"
    assert {path.name for path in folder.iterdir()} == {"results.json", "grid_cfg_1.png", "grid_cfg_1.gif"}
    written = dfm("eval", run_of_clips, *quick, "--device", "cpu", "--json").json
    assert written["rows"] == json.loads((folder / "results.json").read_text())["rows"]
    said = rejected("eval", run_of_clips, "--metrics", "fid", "--set", "fid.path=x", "--device", "cpu", code=2)
    assert "metric 'fid' is for images" in said
    assert "for clips: swd, spectrum, fd, motion, frame_fid, fvd, precision_recall (--metrics)" in said
    assert "--frames: a run says how many" in rejected("eval", run_of_clips, "--frames", 4)
    assert "--frame-rate is of clips in folders" in rejected("eval", run_of_clips, "--frame-rate", 4)


def test_an_option_of_a_default_metric_of_the_other_medium(run: Path, rejected: Rejected) -> None:
    said = rejected("eval", run, "--set", "motion.resamples=0", "--device", "cpu")
    assert "--set motion.resamples: metric 'motion' does not measure images" in said


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
