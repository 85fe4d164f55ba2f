"""Training on clips and images: batches of either, also in a resumed run; and stages that forbid it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from clip_files import numbered
from PIL import Image

import dfm_core as dfm
from dfm_core.assembly import Assembler
from dfm_core.composition import DataDescription
from dfm_core.errors import CompositionError
from dfm_core.interfaces.autoencoder import AutoencoderFacts
from dfm_core.plan import plan_training
from dfm_core.runs.evaluation import fixed_choice
from dfm_core.runs.start import describe_data

TINY = {"name": "video_dit", "options": {"depth": 1, "width": 32, "heads": 2}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five GIFs of six frames and seven images."""
    (tmp_path / "data").mkdir()
    for index in range(5):
        first, *others = [Image.fromarray(numbered(10 * index + frame)) for frame in range(6)]
        first.save(tmp_path / "data" / f"{index}.gif", save_all=True, append_images=others)
    for index in range(7):
        Image.fromarray(numbered(index)).save(tmp_path / "data" / f"{index}.png")
    return tmp_path / "data"


def settings(data: Path, stages: list[list[int]]) -> dict[str, Any]:
    return {
        "dataset": {"name": "video_folder", "options": {"path": str(data), "stills": True}},
        **{"backbone": TINY, "stages": stages, "device": "cpu"},
        **{"flow": {"statistics_images": 4}, "logging": {"tensorboard": False, "sample_every": 0}},
    }


def run(data: Path, output: Path, steps: int, **more: Any) -> list[torch.Tensor]:
    """Train, or go on with what lies at `output`, and return the trained weights."""
    if output.exists():
        dfm.train(resume=output, max_steps=steps, quiet=True)
    else:
        made = settings(data, [[4, 8, 16], [4, 16, 32]])
        dfm.train(**made, max_steps=steps, batch_size=3, quiet=True, output=str(output), **more)
    model = dfm.load(output, device="cpu")
    return list(model.composition.model.backbone.state_dict().values())


@pytest.mark.slow
def test_a_run_and_its_resumption(data: Path, tmp_path: Path) -> None:
    """A round is two batches of clips and three of images: the second run goes on in the midst of one."""
    whole, part = run(data, tmp_path / "whole", 7), run(data, tmp_path / "part", 4)
    assert not all(torch.equal(*pair) for pair in zip(whole, part, strict=True))
    resumed = run(data, tmp_path / "part", 7)
    assert all(torch.equal(*pair) for pair in zip(whole, resumed, strict=True))


def assembled(data: Path, stages: list[list[int]]) -> Assembler:
    return dfm.build(**settings(data, stages)).assembler


def test_statistics_are_those_of_clips(data: Path) -> None:
    dataset = assembled(data, [[4, 16, 32]]).dataset()
    assert len(dataset) == 12
    assert sorted(fixed_choice(dataset, 50)) == [0, 1, 2, 3, 4]
    assert describe_data(dataset).other_sizes == ((1, 16, 32),)


@pytest.mark.parametrize(
    ("stages", "fits"),
    [([[2, 8, 16], [4, 16, 32]], False), ([[3, 8, 16], [5, 16, 32]], True), ([[4, 8, 16], [4, 16, 32]], True)],
)
def test_stages_that_cannot_split_one_frame_are_refused_at_once(
    stages: list[list[int]], fits: bool, data: Path
) -> None:
    if fits:
        assembled(data, stages)
        return
    with pytest.raises(CompositionError, match=r"also holds samples of 1x16x32 .* as many frames, or causal"):
        assembled(data, stages)
    clips_only = settings(data, stages)
    clips_only["dataset"] = {"name": "moving_shapes"}
    made = dfm.build(**clips_only).assembler
    with pytest.raises(CompositionError, match="also holds samples of 1x16x32"):
        plan_training(made, DataDescription(3, (), other_sizes=((1, 16, 32),)))


def test_autoencoders_are_told_that_there_are_clips(data: Path) -> None:
    autoencoder = assembled(data, [[4, 16, 32]]).autoencoder(3, torch.device("cpu"))
    assert autoencoder.facts == AutoencoderFacts(3, clips=True)
