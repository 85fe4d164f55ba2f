"""The measurements of video under benchmarks/: what they measure, on clips whose answer is known, and that they run."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.training.data import load_batch
from dfm_plugins.datasets.moving_shapes import MovingShapes
from dfm_plugins.datasets.specs import MovingShapesOptions

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("texture", ["plain", "weak"])
def test_real_clips_move_as_their_class_says(texture: str) -> None:
    import moving_shapes

    options = MovingShapesOptions(motions=("right", "left", "down", "up"), texture=texture)  # type: ignore[arg-type]
    dataset = MovingShapes(options, DatasetFacts((4, 16, 16), "train", 0))
    batch = load_batch(dataset, range(256))
    motions = [dataset.classes[label].split()[1] for label in batch["label"].tolist()]
    assert moving_shapes.fits(batch["video"], motions).float().mean() >= 0.95
    mixed = [motions[index] for index in torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    assert 0.1 < moving_shapes.fits(batch["video"], mixed).float().mean() < 0.4
    opposite = {"right": "left", "left": "right", "down": "up", "up": "down"}
    assert moving_shapes.fits(batch["video"], [opposite[motion] for motion in motions]).sum() == 0


def test_still_clips_and_empty_ones_fit_nothing() -> None:
    import moving_shapes

    still = -torch.ones(1, 3, 4, 16, 16)
    still[..., 5:9, 5:9] = 1
    assert not moving_shapes.fits(still, ["right"]).any()
    assert not moving_shapes.fits(torch.zeros(1, 3, 4, 16, 16), ["up"]).any()
    assert torch.allclose(moving_shapes.centres(still), torch.tensor(7 / 16).expand(1, 4, 2))


def sums(said: str) -> list[int]:
    """What `video_decoding.py` prints as the sum over the formats."""
    (row,) = (line for line in said.splitlines() if line.startswith("all "))
    return [int(number) for number in row.split()[1:]]


def test_no_clip_is_lost_and_damage_is_named_where_it_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    import video_decoding

    assert video_decoding.main(["--clips", "20", "--damaged", "0.1"]) == 0
    assert sums(capsys.readouterr().out) == [18, 18, 0, 0, 2, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("picture", "counts"),
    [
        (False, [0, 2, 0, 0]),  # nothing at all
        (True, [1, 0, 1, 0]),  # another picture among a folder's frames; an MP4 that is none
    ],
)
def test_damage_that_nobody_names_is_found(
    picture: bool, counts: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    import damaged_clips
    import video_decoding

    black = BytesIO()
    Image.new("RGB", (64, 48)).save(black, "PNG")
    monkeypatch.setattr(damaged_clips, "DAMAGES", {"made up": lambda content: black.getvalue() if picture else content})
    assert video_decoding.main(["--clips", "20", "--damaged", "0.1", "--frames", "24"]) == 1
    assert sums(capsys.readouterr().out) == [18, 18, 0, 0, 2, *counts]


def test_damage_elsewhere_fails_only_where_clips_are_read_whole() -> None:
    from video_decoding import Tally

    fine = Tally(18, 18, 0, 0, 2, 1, 1, 0, 0)
    assert not fine.failed(whole=False)
    assert fine.failed(whole=True)
    for name in ("lost", "altered", "altered_damaged", "neither"):
        assert fine._replace(**{name: 1}).failed(whole=False)


def test_a_clip_differs_by_the_frame_that_differs_most() -> None:
    import video_decoding

    whole = torch.arange(6.0)[None, :, None, None].expand(3, 6, 2, 2)
    assert video_decoding.difference(whole[:, 2:5], whole) == 0
    assert video_decoding.difference(whole[:, [1, 2, 4]], whole) == 1
    assert not video_decoding.is_as_drawn(torch.as_tensor(video_decoding.draw(1))[:, :8, :32, :32], 0)


@pytest.mark.parametrize("options", [[], ["--in-time", "--attention", "factorised"]])
def test_a_step_of_clips_is_measured(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    import video_step

    small = ["--size", "Ti", "--depth", "2", "--frames", "2", "--resolution", "16", "--pairs", "1"]
    assert video_step.main([*small, *options]) in (0, 1)  # one pair says nothing
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"tokens: .+; FLOPs, two stages over one: 1\.\d{5}", said[0])
    assert [line.partition(":")[0] for line in said[1:3]] == [
        "step time, plain over itself",
        "step time, two stages over plain",
    ]
