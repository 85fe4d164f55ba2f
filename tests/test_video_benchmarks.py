"""The measurements of video under benchmarks/: what they measure, on clips whose answer is known, and that they run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
