"""`dfm sample`: which files, how many, from which settings; the same bits whatever the batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_tools import Dfm, Rejected
from command_tools import read_picture as pixels
from PIL import Image, ImageSequence

from dfm_core.interfaces.backbone import Conditioning
from dfm_core.model import load
from dfm_core.preconditioning import VelocityModel

SHORT = ["--steps", "3,2", "--device", "cpu"]


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_grid_and_one_png_an_image(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    result = dfm("sample", trained, *SHORT, "--num", 5, "--output", tmp_path / "out")
    assert written(tmp_path / "out") == {"grid.png", *(f"{index:04d}.png" for index in range(5))}
    assert pixels(tmp_path / "out" / "0003.png").shape == (16, 16, 3)
    assert pixels(tmp_path / "out" / "grid.png").shape == (2 + 18, 2 + 5 * 18, 3)  # five classes in a row
    assert result.lines[0].startswith("5 model calls per image (euler, 5 steps)")
    assert result.lines[1] == f"wrote 6 files; grid: {tmp_path / 'out' / 'grid.png'}"
    assert "5 of 5 images" in result.err


def test_the_grid_holds_the_images_in_their_order(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    dfm("sample", trained, *SHORT, "--num", 16, "--output", tmp_path / "out")
    grid = pixels(tmp_path / "out" / "grid.png")
    assert grid.shape == (2 + 2 * 18, 2 + 8 * 18, 3)  # a column for each of the eight classes
    for index in (0, 7, 8, 15):
        top, left = 2 + 18 * (index // 8), 2 + 18 * (index % 8)
        cell = grid[top : top + 16, left : left + 16]
        np.testing.assert_array_equal(cell, pixels(tmp_path / "out" / f"{index:04d}.png"))


def test_previews_of_every_stage(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    dfm("sample", trained, *SHORT, "--num", 3, "--previews", "--output", tmp_path / "out")
    stages = {f"{index:04d}_stage_{stage}.png" for index in range(3) for stage in (1, 2)}
    images = {"grid.png", "0000.png", "0001.png", "0002.png", "grid_stage_1.png", "grid_stage_2.png"}
    assert written(tmp_path / "out") == images | stages
    assert pixels(tmp_path / "out" / "0001_stage_1.png").shape == (8, 8, 3)
    last = pixels(tmp_path / "out" / "0001_stage_2.png")
    np.testing.assert_array_equal(last, pixels(tmp_path / "out" / "0001.png"))


def test_the_animation_has_a_frame_for_every_step(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    dfm("sample", trained, "--device", "cpu", "--num", 2, "--animate", "--output", tmp_path / "out")
    with Image.open(tmp_path / "out" / "animation.gif") as animation:
        assert animation.size == (2 + 2 * 18, 2 + 18)
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(animation)]
    assert durations[:-1] == [80] * 39
    assert durations[-1] > 1000


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Labels of the batch in every call of the model."""
    calls: list[list[int]] = []
    original = VelocityModel.forward

    def forward(self: VelocityModel, stages: Any, t: Any, visible: Any, conditioning: Conditioning) -> Any:
        assert conditioning.label is not None
        calls.append(conditioning.label.tolist())
        return original(self, stages, t, visible, conditioning)

    monkeypatch.setattr(VelocityModel, "forward", forward)
    return calls


@pytest.mark.parametrize(("solver", "calls"), [("euler", 5), ("heun", 10), ("midpoint", 10), ("ab2", 5)])
def test_the_model_calls_that_are_printed_are_made(
    solver: str, calls: int, dfm: Dfm, trained: Path, tmp_path: Path, seen: list[list[int]]
) -> None:
    result = dfm("sample", trained, *SHORT, "--num", 4, "--solver", solver, "--output", tmp_path / "out")
    assert seen == [[0, 1, 2, 3]] * calls
    assert result.lines[0].startswith(f"{calls} model calls per image ({solver}, 5 steps)")


def test_guidance_runs_with_and_without_label(dfm: Dfm, trained: Path, tmp_path: Path, seen: list[list[int]]) -> None:
    result = dfm("sample", trained, *SHORT, "--num", 4, "--label", "0,heart", "--cfg", 2, "--output", tmp_path / "out")
    assert seen == [[0, 7, 0, 7, 8, 8, 8, 8]] * 5
    assert "5 model calls per image (euler, 5 steps, each with and without label for guidance 2)" in result.out


def test_guidance_within_an_interval(dfm: Dfm, trained: Path, tmp_path: Path, seen: list[list[int]]) -> None:
    flags = ["sample", trained, *SHORT, "--num", 4, "--label", "0", "--cfg", 2, "--output", tmp_path / "out"]
    result = dfm(*flags, "--cfg-interval", "0,0.1")
    guided, plain = [0, 0, 0, 0, 8, 8, 8, 8], [0, 0, 0, 0]
    assert seen == [guided, plain, plain, guided, plain]  # the first step of each of the two stages
    assert "each with and without label for guidance 2 at t 0 to 0.1)" in result.out


def test_labels_take_turns_and_without_them_all_classes_do(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    def labels(*flags: str) -> list[int]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return dfm("sample", trained, *SHORT, "--num", 5, "--output", folder, "--json", *flags).json["labels"]

    assert labels("--label", "0,3") == [0, 3, 0, 3, 0]
    assert labels("--label", "heart, circle") == [7, 0, 7, 0, 7]
    assert labels() == [0, 1, 2, 3, 4]


def test_json_tells_how_the_images_were_made(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    result = dfm("sample", trained, *SHORT, "--num", 2, "--cfg", 1.5, "--output", tmp_path / "out", "--json").json
    assert result.pop("seconds") > 0
    assert result == {
        "folder": str(tmp_path / "out"),
        "images": 2,
        "labels": [0, 1],
        "seed": 0,
        "cfg": 1.5,
        "cfg_interval": [0.0, 1.0],
        "solver": "euler",
        "steps": 5,
        "model_calls": 5,
        "files": ["grid.png", "0000.png", "0001.png"],
    }


def test_same_seed_same_bits_whatever_the_batch_size(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    for name, flags in {"whole": [], "parts": ["--batch-size", 2], "other": ["--seed", 1]}.items():
        dfm("sample", trained, *SHORT, "--num", 5, "--cfg", 2, "--output", tmp_path / name, *flags)
    for index in range(5):
        one, two, other = (
            pixels(tmp_path / name / f"{index:04d}.png").tolist() for name in ("whole", "parts", "other")
        )
        assert one == two
        assert one != other


def test_steps_and_thresholds_reach_the_schedule(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    flags = [
        "--device",
        "cpu",
        "--num",
        1,
        "--steps",
        "4,3",
        "--thresholds",
        "0.7",
        "--seed",
        3,
        "--output",
        tmp_path / "out",
    ]
    assert "7 model calls per image" in dfm("sample", trained, *flags).out
    model = load(trained, device="cpu").with_schedule(steps=(4, 3), thresholds=(0.7,))
    assert float(model.composition.grid.t[4, 0]) == 0.7
    expected = (model.generate(1, seed=3)[0].permute(1, 2, 0) + 1) * 127.5
    difference = torch.from_numpy(pixels(tmp_path / "out" / "0000.png").astype(np.float32)) - expected
    assert float(difference.abs().max()) <= 0.5001


def test_images_go_to_a_numbered_folder_of_the_run(dfm: Dfm, run: Path) -> None:
    for number in (1, 2):
        assert f"{run}/samples/000{number}/grid.png" in dfm("sample", run, *SHORT, "--num", 1).out
    assert (run / "samples" / "0002" / "0000.png").is_file()


def test_an_exported_model_gives_the_same_images(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    dfm("export", trained, tmp_path / "model")
    for source in (trained, tmp_path / "model"):
        dfm("sample", source, *SHORT, "--num", 2, "--output", tmp_path / f"from-{source.name}")
    first, second = (pixels(tmp_path / f"from-{name}" / "grid.png") for name in ("run", "model"))
    np.testing.assert_array_equal(first, second)


def test_a_damaged_newest_checkpoint_is_passed_over(dfm: Dfm, run: Path) -> None:
    (run / "checkpoints" / "step_00000006" / "ema.safetensors").write_bytes(b"cut")
    assert dfm("sample", run, *SHORT, "--num", 1).code == 0


def test_unlabelled_data(dfm: Dfm, rejected: Rejected, unlabelled: Path, tmp_path: Path) -> None:
    flags = ["sample", unlabelled, *SHORT, "--num", 3, "--output", tmp_path / "out"]
    assert "guidance (cfg other than 1) needs labels" in rejected(*flags, "--cfg", 2)
    assert "trained on unlabelled data: leave labels out" in rejected(*flags, "--label", 0)
    assert not (tmp_path / "out").exists()
    assert dfm(*flags, "--json").json["labels"] is None
    assert pixels(tmp_path / "out" / "grid.png").shape == (2 + 2 * 18, 2 + 2 * 18, 3)


MISTAKES = {
    "label number": (["--label", "8"], "label 8: expected 0 to 7 (circle, square, "),
    "label name": (["--label", "circel"], "label 'circel': expected a class name or number: circle, square, triangle"),
    "empty label": (["--label", ""], "label '': expected a class name or number"),
    "few steps": (["--steps", "3"], "steps): expected 2 for 2 stages (one for each, coarse to fine), got 1: [3]"),
    "many steps": (["--steps", "3,2,1"], "steps): expected 2 for 2 stages"),
    "no step": (["--steps", "0,1"], "steps.0): expected greater than or equal to 1, got 0"),
    "no number": (["--steps", "3,x"], "--steps: expected whole numbers separated by commas, like 30,10; got '3,x'"),
    "broken steps": (["--steps", "3.5,1"], "--steps: expected whole numbers"),
    "many thresholds": (["--thresholds", "0.7,0.8"], "thresholds): expected 1 for 2 stages (one for each stage but"),
    "threshold 0": (["--thresholds", "0"], "thresholds.0): expected greater than 0, got 0"),
    "threshold above 1": (["--thresholds", "1.1"], "thresholds.0): expected less than or equal to 1, got 1.1"),
    "no threshold": (["--thresholds", "high"], "--thresholds: expected numbers separated by commas"),
    "solver": (["--solver", "heunn"], "unknown solver 'heunn'; expected one of euler, heun, midpoint, ab2. Did you"),
    "device": (["--device", "cuda"], "device 'cuda' is not on this machine; it has cpu (--device auto picks one)"),
    "backward interval": (
        ["--cfg", "2", "--cfg-interval", "0.8,0.2"],
        "0 <= low <= high <= 1, like 0.2,0.8; got 0.8,0.2",
    ),
    "interval of one": (["--cfg", "2", "--cfg-interval", "0.8"], "expected the two ends of a range of t"),
    "interval beyond 1": (["--cfg", "2", "--cfg-interval", "0.8,1.2"], "0 <= low <= high <= 1"),
    "no interval": (["--cfg", "2", "--cfg-interval", "low"], "--cfg-interval: expected numbers separated by commas"),
    "interval of nothing": (["--cfg-interval", "0.2,0.8"], "--cfg-interval: there is no guidance to bound"),
    "endless guidance": (["--cfg", "inf"], "--cfg: expected a finite number of at least 0, got inf"),
    "no guidance": (["--cfg", "nan"], "--cfg: expected a finite number of at least 0, got nan"),
    "negative guidance": (["--cfg", "-1"], "--cfg: expected a finite number of at least 0, got -1"),
    "odd device": (["--device", "gpu"], "expected auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(
    mistake: str, rejected: Rejected, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    flags, message = MISTAKES[mistake]
    assert message in rejected("sample", trained, "--num", 1, *flags, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [["--num", "0"], ["--batch-size", "0"], ["--seed", "-1"]])
def test_numbers_out_of_range(flags: list[str], dfm: Dfm, trained: Path) -> None:
    assert f"'{flags[0]}': Input should be greater than or equal to" in " ".join(
        dfm("sample", trained, *flags, code=2).err.split()
    )


def test_a_folder_that_exists_is_left_alone(rejected: Rejected, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "grid.png").write_text("mine")
    message = rejected("sample", trained, "--num", 1, "--output", tmp_path / "precious")
    assert message == f"{tmp_path / 'precious'} exists already; choose another --output, or leave it out"
    assert (tmp_path / "precious" / "grid.png").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_an_error_before_the_work(
    rejected: Rejected, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    message = rejected("sample", trained, "--num", 1, "--output", tmp_path / "file" / "out")
    assert message.startswith(f"cannot make the folder {tmp_path / 'file' / 'out'}: ")


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_is_no_run(name: str, rejected: Rejected, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / name} is " in rejected("sample", tmp_path / name, code=1)


def test_an_exported_model_that_is_damaged(rejected: Rejected, dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    dfm("export", trained, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"cut")
    assert "the exported model cannot be read" in rejected("sample", tmp_path / "model", code=1)


def test_nothing_of_an_interrupted_sampling_stays(
    trained: Path, dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dfm_core.pictures.gallery.Gallery.collect", stop)
    dfm("sample", trained, *SHORT, "--output", tmp_path / "out", code=130)
    assert not (tmp_path / "out").exists()


def test_quiet_leaves_the_result(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    result = dfm("sample", trained, *SHORT, "--num", 1, "--output", tmp_path / "out", "--quiet")
    assert result.err == ""
    assert len(result.lines) == 2


def test_another_schedule(dfm: Dfm, rejected: Rejected, trained: Path, tmp_path: Path) -> None:
    result = dfm(
        "sample", trained, "--schedule", "simultaneous", "--steps", 4, "--num", 1, "--output", tmp_path / "out"
    )
    assert result.lines[0].startswith("4 model calls per image")
    assert "'simultaneous'" in rejected("sample", trained, "--schedule", "simultanous", "--num", 1)
