"""Outlines against areas in closed form; scenes that are the same at every size, stand out, and stay inside."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dfm_core.errors import UsageError
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.training.data import BatchStream, load_batch
from dfm_plugins.datasets.outlines import OUTLINES
from dfm_plugins.datasets.scene import compose
from dfm_plugins.datasets.shapes import Shapes
from dfm_plugins.datasets.specs import ShapesOptions

LUMA = np.array([0.299, 0.587, 0.114])


def shapes(size: tuple[int, int] = (32, 32), split: str = "train", **options: object) -> Shapes:
    return Shapes(ShapesOptions(**options), DatasetFacts(size, split, 0))  # type: ignore[arg-type]


def image_of(dataset: Shapes, index: int) -> torch.Tensor:
    image = dataset.load(index, 0)["image"]
    assert isinstance(image, torch.Tensor)
    return image


def crescent_area() -> float:
    """Disc of radius R less its lens with a disc of radius r at distance d."""
    big, small, d = 0.9, 0.75, 0.52
    at_big = (d * d + big * big - small * small) / (2 * d)
    lens = big**2 * math.acos(at_big / big) - at_big * math.sqrt(big**2 - at_big**2)
    lens += small**2 * math.acos((d - at_big) / small) - (d - at_big) * math.sqrt(small**2 - (d - at_big) ** 2)
    return math.pi * big**2 - lens


AREAS = {
    "circle": math.pi * 0.85**2,
    "square": 1.41**2,
    "triangle": 3 * math.sqrt(3) / 4,
    "star": 5 * 0.44 * math.sin(math.radians(36)),
    "ring": math.pi * (0.92**2 - 0.5**2),
    "cross": 2 * 1.84 * 0.56 - 0.56**2,
    "crescent": crescent_area(),
    "heart": 2 * 0.76**2 + math.pi * 0.76**2 / 2,
}


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_enclose_their_area_within_the_unit_circle(name: str) -> None:
    axis = np.linspace(-1.2, 1.2, 1201, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    distance = OUTLINES[name](x, y)
    assert distance.dtype == np.float32
    assert (distance < 0).mean() * 2.4**2 == pytest.approx(AREAS[name], rel=0.01)
    assert (distance[np.hypot(x, y) > 1.002] > 0).all()
    slopes = np.hypot(*np.gradient(distance, 0.002))[np.abs(distance) < 0.05]
    assert np.quantile(np.abs(slopes - 1), 0.9) < 0.02, "not a distance near the outline: its edge would blur"


@pytest.mark.parametrize("texture", ["plain", "weak", "hard"])
def test_values_stay_in_range_and_shapes_stand_out(texture: str) -> None:
    dataset = shapes(texture=texture)
    for index in range(300):
        assert image_of(dataset, index).abs().max() <= 1
        scene = compose(f"shapes/train/{index}", texture, 45.0)  # type: ignore[arg-type]
        assert abs(LUMA @ scene.fill.base - LUMA @ scene.backdrop.base) > 0.3


@pytest.mark.parametrize("size", [(32, 32), (24, 48), (48, 24)])
def test_a_scene_looks_the_same_at_every_size(size: tuple[int, int]) -> None:
    large = (8 * size[0], 8 * size[1])
    for index in range(16):
        small, reduced = image_of(shapes(size), index), F.avg_pool2d(image_of(shapes(large), index), 8)
        assert small.shape == (3, *size)
        assert (small - reduced).abs().mean() < 0.012, index
        assert (small - reduced).abs().max() < 0.7, index  # corners, at most


def test_textures_grow_from_none() -> None:
    """Within a shape: one colour, then faint differences, then strong ones; a plain backdrop changes linearly."""
    spread = {}
    for texture in ("plain", "weak", "hard"):
        filled = []
        for index in range(0, 400, 8):  # discs
            scene = compose(f"shapes/train/{index}", texture, 45.0)
            image, radius = image_of(shapes((64, 64), texture=texture), index), scene.radius
            x, y = (round(64 * (radius + place * (1 - 2 * radius))) for place in scene.place)
            half = round(64 * radius * 0.5)
            filled.append(image[:, y - half : y + half, x - half : x + half].std((1, 2)).mean())
        spread[texture] = float(torch.stack(filled).mean())
    assert spread["plain"] < 1e-4
    assert 0.02 < spread["weak"] < 0.15
    assert spread["hard"] > 1.5 * spread["weak"]


def test_samples_are_pinned() -> None:
    """Data that changes unnoticed would make old results incomparable."""
    sample = shapes().load(3, 0)
    assert sample["label"] == 3
    image = image_of(shapes(), 3)
    assert image.mean((1, 2)).tolist() == pytest.approx([-0.0592, 0.2895, 0.5279], abs=2e-4)


def test_neither_seed_nor_epoch_change_the_data_and_splits_differ() -> None:
    other = Shapes(ShapesOptions(), DatasetFacts((32, 32), "train", 7))
    assert torch.equal(image_of(shapes(), 5), image_of(other, 5))
    assert torch.equal(image_of(shapes(), 5), other.load(5, 9)["image"])  # type: ignore[arg-type]
    assert not torch.equal(image_of(shapes(), 5), image_of(shapes(split="validation"), 5))


def test_lengths_and_classes() -> None:
    assert (len(shapes()), len(shapes(split="validation"))) == (1_000_000, 10_000)
    assert (len(shapes(train_images=9)), len(shapes(split="validation", validation_images=0))) == (9, 0)
    assert shapes().classes == ("circle", "square", "triangle", "star", "ring", "cross", "crescent", "heart")
    labels = [shapes().load(index, 0)["label"] for index in range(16)]
    assert labels == [*range(8), *range(8)]


def test_no_two_scenes_are_alike() -> None:
    scenes = [compose(f"shapes/train/{index}", "plain", 45.0) for index in range(20_000)]
    assert len({(scene.place, scene.radius, scene.fill.base) for scene in scenes}) == len(scenes)
    places = np.array([scene.place for scene in scenes])
    assert np.abs(places.mean(0) - 0.5).max() < 0.01
    assert np.abs(places.std(0) - 12**-0.5).max() < 0.01


def test_wrong_sizes_and_indices_are_refused() -> None:
    with pytest.raises(UsageError, match="height × width"):
        shapes((16, 32, 32))  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="below 5"):
        shapes(train_images=5).load(5, 0)


def test_tiny_images_can_be_drawn() -> None:
    assert image_of(shapes((1, 1)), 0).shape == (3, 1, 1)
    assert image_of(shapes((2, 5)), 3).isfinite().all()


@pytest.mark.slow
def test_a_small_network_tells_the_classes_apart() -> None:
    """At 32 pixels at least 98% of held-out images are named right: what a generated image can be judged by."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for before, after, stride in ((3, 32, 1), (32, 48, 2), (48, 64, 2), (64, 96, 2)):
        layers += [torch.nn.Conv2d(before, after, 3, stride, 1), torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(96 * 16, 8))
    steps = 800
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for batch in BatchStream(shapes(), 64, seed=0).batches(0, steps):
        F.cross_entropy(network(batch["image"]), batch["label"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
    held_out = load_batch(shapes(split="validation"), range(2000))
    with torch.no_grad():
        right = network.eval()(held_out["image"]).argmax(1) == held_out["label"]
    assert right.float().mean() >= 0.98
