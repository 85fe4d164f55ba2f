"""Evaluations of models of clips: stored in 8 bits, killed and resumed, pictures, folders, clips of one frame."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dfm_core as dfm
from dfm_core.clips import read_clip, write_gif
from dfm_core.errors import CompositionError, DataError
from dfm_core.evaluation.clip_sets import clip_files, folder_clip_size, folder_clips
from dfm_core.evaluation.evaluation import (
    Evaluation,
    EvaluationSettings,
    evaluate_folder,
    evaluate_model,
)
from dfm_core.evaluation.image_sets import image_batches, rounded
from dfm_core.evaluation.reference import Reference
from dfm_core.evaluation.result_folder import results_in
from dfm_core.images import save_png, to_pixels
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample, Section
from dfm_core.model import Model, load
from dfm_core.plugins import Options
from dfm_core.training.distributed import World

QUICK = {
    "swd": {"patches": 8, "directions": 16},
    "spectrum": {"resamples": 5},
    "fd": {"steps": 3, "resamples": 5, "training_images": 16},
    "motion": {"resamples": 5},
}


def trained(path: Path, **values: Any) -> Model:
    dfm.train(
        quiet=True,
        max_steps=2,
        batch_size=2,
        device="cpu",
        output=str(path),
        backbone={"name": "video_dit", "options": {"depth": 1, "width": 16, "heads": 1}},
        flow={"statistics_images": 4},
        logging={"tensorboard": False, "validation_every": 0, "sample_every": 0},
        **values,
    )
    return load(path, device="cpu").with_schedule(steps=[1, 1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of clips of four frames at 16 pixels."""
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    return trained(folder, dataset="moving_shapes", stages=["4x8x8", "4x16x16"])


@pytest.fixture
def settings(tmp_path: Path) -> EvaluationSettings:
    return EvaluationSettings(QUICK, num=20, reference_num=24, cache=tmp_path / "cache")


def numbers(evaluation: Evaluation) -> list[dict[str, object]]:
    return [row.as_dict() for row in evaluation.rows]


def test_clips_are_sampled_measured_and_shown(model: Model, settings: EvaluationSettings, tmp_path: Path) -> None:
    evaluation = evaluate_model(model, tmp_path / "samples", settings, World())
    (row,) = evaluation.rows
    assert [result.metric for result in row.results] == ["swd", "spectrum", "fd", "motion"]
    assert all((result.samples, result.reference) == (20, 24) for result in row.results)
    assert all(result.real is not None and result.real.images == 20 for result in row.results)
    assert list(row.results[3].values) == ["motion", "motion_1", "motion_2"]
    assert evaluation.noun == "clips"
    with results_in(tmp_path / "out", World()) as keep:
        keep(evaluation)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "grid_cfg_1.png", "grid_cfg_1.gif"}
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["reference"]["size"] == [4, 16, 16]
    with Image.open(tmp_path / "out" / "grid_cfg_1.png") as sheet:
        assert sheet.size == (4 * 18 + 2, 16 * 18 + 2)  # a row for each of sixteen
    assert read_clip(tmp_path / "out" / "grid_cfg_1.gif").shape[1] == 4


def test_clips_are_kept_in_eight_bits_and_are_those_of_the_model(
    model: Model, settings: EvaluationSettings, tmp_path: Path
) -> None:
    asked = replace(settings, num=10, metrics={"motion": {"resamples": 0}})
    row = evaluate_model(model, tmp_path, asked, World()).rows[0]
    expected = rounded(model.generate(10, seed=0, cfg=1.0))
    for index in (0, 7, 8, 9):
        sample = row.samples.load(index, 0)
        assert torch.equal(torch.as_tensor(sample["video"]), expected[index])
        assert sample["label"] == index
    files = sorted(tmp_path.glob("*/*.safetensors"))
    assert [path.stem for path in files] == ["00000000-00000008", "00000008-00000010"]
    kept = load_file(files[0])["images"]
    assert (kept.dtype, tuple(kept.shape)) == (torch.uint8, (8, 3, 4, 16, 16))


class Killed(Exception):
    """Stands for the end of the process."""


def test_killed_and_resumed_gives_the_same_number_and_no_clip_twice(
    model: Model, settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate_model(model, tmp_path / "whole", settings, World())
    stream, made, most = model.stream, [], [16]

    def counted(num: int, **more: Any) -> Iterator[object]:
        if sum(made) >= most[0]:
            raise Killed
        made.append(num)
        return stream(num, **more)

    monkeypatch.setattr(model, "stream", counted)
    with pytest.raises(Killed):
        evaluate_model(model, tmp_path / "broken", settings, World())
    most[0] = 10**9
    resumed = evaluate_model(model, tmp_path / "broken", settings, World())
    assert sum(made) == 20
    assert numbers(resumed) == numbers(expected)
    shutil.rmtree(tmp_path / "cache")
    assert numbers(evaluate_model(model, tmp_path / "broken", settings, World())) == numbers(expected)
    assert sum(made) == 20


def test_clips_of_one_frame_are_measured_as_images(settings: EvaluationSettings, tmp_path: Path) -> None:
    """Both where the data holds images and where it holds clips of one frame."""
    metrics = {name: QUICK[name] for name in ("swd", "spectrum", "fd")}
    asked = replace(settings, num=6, metrics=metrics)
    for number, dataset in enumerate(("shapes", "moving_shapes")):
        model = trained(tmp_path / dataset, dataset=dataset, stages=["1x8x8", "1x16x16"])
        evaluation = evaluate_model(model, tmp_path / f"samples{number}", asked, World())
        assert evaluation.noun == "images"
        assert evaluation.reference["size"] == [16, 16]
        assert torch.as_tensor(evaluation.rows[0].samples.load(0, 0)["image"]).shape == (3, 16, 16)
        with results_in(tmp_path / f"out{number}", World()) as keep:
            keep(evaluation)
        assert not list((tmp_path / f"out{number}").glob("*.gif"))
    with pytest.raises(CompositionError, match="metric 'motion' is for clips"):
        evaluate_model(model, tmp_path, settings, World())


def write_clips(folder: Path, count: int, frames: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        clip = torch.rand(3, frames, 12, 16, generator=generator) * 2 - 1
        write_gif(folder / f"{index:04d}.gif", clip)
    return folder


def test_a_folder_of_clips_against_a_folder(settings: EvaluationSettings, tmp_path: Path) -> None:
    samples, real = write_clips(tmp_path / "samples", 5), write_clips(tmp_path / "real", 8, frames=8)
    metrics = {"motion": {}, "spectrum": {}}
    asked = replace(settings, metrics=metrics, reference=real, num=None, frames=4)
    evaluation = evaluate_folder(samples, asked, World())
    assert [(result.samples, result.reference) for result in evaluation.rows[0].results] == [(5, 8), (5, 8)]
    assert evaluation.reference["size"] == [4, 12, 16]
    with results_in(tmp_path / "out", World()) as keep:
        keep(evaluation)
    assert (tmp_path / "out" / "grid_samples.gif").is_file()
    same = evaluate_folder(real, asked, World())
    assert [result.value for result in same.rows[0].results] == pytest.approx([0, 0], abs=1e-6)
    with pytest.raises(DataError, match="are too short"):
        evaluate_folder(samples, replace(asked, frames=7), World())
    with pytest.raises(CompositionError, match=r"clips of 4x12x16 are measured.*\n.*'fid' is for images"):
        evaluate_folder(samples, replace(asked, metrics={"fid": {}}), World())


def test_a_model_of_clips_against_a_folder(model: Model, settings: EvaluationSettings, tmp_path: Path) -> None:
    real = write_clips(tmp_path / "real", 6)
    asked = replace(settings, metrics={"motion": {}}, num=4, reference=real)
    (result,) = evaluate_model(model, tmp_path / "samples", asked, World()).rows[0].results
    assert (result.samples, result.reference) == (4, 6)


def test_what_counts_as_a_clip(tmp_path: Path) -> None:
    write_clips(tmp_path, 2)
    for beside in ("grid.gif", "grid_stage_1.gif", "0000_stage_1.gif", "animation.gif", ".hidden.gif"):
        shutil.copy(tmp_path / "0000.gif", tmp_path / beside)
    (tmp_path / "0001.mp4").touch()  # the same clip again, as `dfm sample` writes it
    for name in ("cats/one/0.png", "cats/one/1.png", "0000.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_png(tmp_path / name, to_pixels(torch.zeros(3, 12, 16)))
    assert clip_files(tmp_path) == ["0000.gif", "0001.mp4", "cats/one"]
    folder = tmp_path / "cats"
    assert clip_files(folder) == ["one"]
    assert folder_clip_size(folder, 2) == (2, 12, 16)
    clips = folder_clips(tmp_path, (2, 12, 16))
    assert clips.classes == ()
    before = folder_clips(folder, (2, 12, 16)).listing
    save_png(folder / "one" / "2.png", to_pixels(torch.ones(3, 12, 16)))
    assert folder_clips(folder, (2, 12, 16)).listing != before
    with pytest.raises(DataError, match="no clips in"):
        clip_files(folder / "one")
    with pytest.raises(DataError, match="expected a folder of clips"):
        clip_files(tmp_path / "nowhere")


class Mixed(Dataset):
    """Six clips, then images as clips of one frame."""

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int:
        return 10

    def sections(self) -> tuple[Section, ...]:
        return Section(6, (4, 8, 8)), Section(4, (1, 8, 8))

    def load(self, index: int, epoch: int) -> Sample:
        return {"video": torch.zeros(3, 4 if index < 6 else 1, 8, 8)}


def test_images_among_clips_are_no_reference() -> None:
    reference = Reference(Mixed(Options(), DatasetFacts((4, 8, 8), "train", 0)), {}, 100)
    assert sorted(reference.indices) == list(range(6))
    (batch,) = image_batches(reference.dataset, reference.indices, device=torch.device("cpu"))
    assert batch.images.shape == (6, 3, 4, 8, 8)
