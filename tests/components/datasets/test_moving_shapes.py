"""Clips whose shape and motion can be measured: the class says what moves, and how."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_plugins.datasets.moving_shapes import MOTIONS, MovingShapes
from dfm_plugins.datasets.outlines import OUTLINES
from dfm_plugins.datasets.specs import Motion, MovingShapesOptions, Shape


def moving(size: tuple[int, ...] = (8, 32, 32), split: str = "train", **options: object) -> MovingShapes:
    return MovingShapes(MovingShapesOptions(**options), DatasetFacts(size, split, 0))  # type: ignore[arg-type]


def clip_of(dataset: MovingShapes, index: int) -> Tensor:
    clip = dataset.load(index, 0)["video"]
    assert isinstance(clip, torch.Tensor)
    return clip


def measured(clip: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre (down, across) in pixels and area of what differs from the corner, in every frame of a plain clip."""
    corner = torch.stack([clip[:, :, y, x] for y in (0, -1) for x in (0, -1)]).median(0).values[:, :, None, None]
    weight = (clip - corner).abs().sum(0).double()
    weight = weight / weight.amax((1, 2), keepdim=True)
    area = weight.sum((1, 2))
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in weight.shape[1:])
    return (
        ((weight * rows[:, None]).sum((1, 2)) / area).numpy(),
        ((weight * columns).sum((1, 2)) / area).numpy(),
        area.numpy(),
    )


def test_the_class_says_how_the_shape_moves() -> None:
    """Measured in the pixels: a translation along one axis, or a change of size in one place, at constant speed."""
    dataset = moving((8, 64, 64))
    for index in range(2 * len(dataset.classes)):
        motion = dataset.classes[index % len(dataset.classes)].split()[1]
        down, across, area = measured(clip_of(dataset, index))
        steps = {"down": np.diff(down), "across": np.diff(across)}
        moves = {"right": ("across", 1), "left": ("across", -1), "down": ("down", 1), "up": ("down", -1)}
        for axis, step in steps.items():
            if motion in moves and moves[motion][0] == axis:
                assert (moves[motion][1] * step > 1.5).all(), (index, motion)
                assert np.ptp(step) < 0.5, "the same speed throughout"
            elif motion != "turning":
                assert np.abs(step).max() < 0.6, (index, motion)
        growth = area[-1] / area[0]
        expected = {"growing": growth > 2, "shrinking": growth < 0.5}.get(motion, 0.8 < growth < 1.25)
        assert expected, (index, motion, growth)


def test_classes_can_be_chosen() -> None:
    chosen = moving(shapes=("circle", "heart"), motions=("left", "turning"))
    assert chosen.classes == ("circle left", "heart left", "heart turning")
    whole = moving()
    assert len(whole.classes) == len(set(whole.classes)) == 54
    assert get_args(Shape) == tuple(OUTLINES)
    assert get_args(Motion) == tuple(MOTIONS)
    with pytest.raises(UsageError, match="looks still"):
        moving(shapes=("ring",), motions=("turning",))


def test_turning_is_counter_clockwise() -> None:
    """A heart's tip, the pixel farthest from the centre of its mass, goes round it, against the clock."""
    dataset = moving((8, 96, 96), rotation=0)
    clip = clip_of(dataset, dataset.classes.index("heart turning"))
    down, across, _ = measured(clip)
    corner = clip[:, :, :1, :1]
    shape = (clip - corner).abs().sum(0) > 0.5
    angles = []
    for frame, (y, x) in zip(shape, zip(down, across, strict=True), strict=True):
        rows, columns = np.nonzero(frame.numpy())
        farthest = np.argmax(np.hypot(rows - y, columns - x))
        angles.append(np.degrees(np.arctan2(-(rows[farthest] - y), columns[farthest] - x)))
    turned = np.unwrap(angles, period=360)
    assert 70 < turned[-1] - turned[0] < 110
    assert (np.diff(turned) > 4).all()


def test_every_pair_that_can_be_seen_is_a_class() -> None:
    classes = moving().classes
    assert len(classes) == len(set(classes)) == 8 * 7 - 2
    assert classes[:2] == ("circle right", "square right")
    assert not {"circle turning", "ring turning"} & set(classes)
    labels = [moving().load(index, 0)["label"] for index in range(108)]
    assert labels == [*range(54), *range(54)]


def test_frames_are_those_of_the_scene() -> None:
    """A clip of one frame is the picture in the middle of the motion; twice the frames are the same motion."""
    few, many = clip_of(moving((4, 32, 32)), 0), clip_of(moving((8, 32, 32)), 0)
    assert few.shape == (3, 4, 32, 32)
    _, across, _ = measured(few)
    _, finer, _ = measured(many)
    assert np.abs(across - (finer[::2] + finer[1::2]) / 2).max() < 0.2
    one = clip_of(moving((1, 32, 32)), 0)
    assert measured(one)[1][0] == pytest.approx(across.mean(), abs=0.3)


def test_the_backdrop_stands_still() -> None:
    clip = clip_of(moving((6, 48, 48), texture="hard"), 0)  # a disc that goes to the right
    down, _, _ = measured(clip_of(moving((6, 48, 48)), 0))
    far = clip[:, :, 0 if down.mean() > 24 else -1]
    assert (far == far[:, :1]).all()
    assert far.std() > 0.01, "there is a texture"


def test_clips_are_pinned_and_independent_of_seed_and_epoch() -> None:
    """Data that changes unnoticed would make old results incomparable."""
    clip = clip_of(moving((4, 32, 32)), 3)
    assert clip.mean((1, 2, 3)).tolist() == pytest.approx([-0.7821, -0.3556, -0.4749], abs=2e-4)
    other = MovingShapes(MovingShapesOptions(), DatasetFacts((4, 32, 32), "train", 7))
    assert torch.equal(clip, other.load(3, 9)["video"])  # type: ignore[arg-type]
    assert not torch.equal(clip, clip_of(moving((4, 32, 32), "validation"), 3))


def test_lengths_and_wrong_sizes() -> None:
    assert (len(moving()), len(moving(split="validation"))) == (1_000_000, 10_000)
    assert (len(moving(train_clips=9)), len(moving(split="validation", validation_clips=0))) == (9, 0)
    with pytest.raises(UsageError, match=r"frames × height × width, got \(32, 32\).*--frames 8"):
        moving((32, 32))
    with pytest.raises(IndexError, match="below 5"):
        moving(train_clips=5).load(5, 0)
    assert clip_of(moving((1, 1, 1)), 0).shape == (3, 1, 1, 1)
    assert clip_of(moving((3, 2, 5)), 20).isfinite().all()
