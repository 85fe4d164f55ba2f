"""Metrics of clips that need no weights: closed forms, known answers, clips that look right and move wrongly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from clip_inputs import frozen, in_another_order, moving_clips
from metric_inputs import batch_of, noisy, score
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import Metric, MetricFacts
from dfm_plugins.metrics.classifier import ClassifierFeatures, ClassifierFrechetDistance, shrunk, shuffled
from dfm_plugins.metrics.frames import spread
from dfm_plugins.metrics.frechet import gaussian_of
from dfm_plugins.metrics.gaussians import Gaussian, frechet_distance
from dfm_plugins.metrics.motion import MotionDistance
from dfm_plugins.metrics.specs import ClassifierFrechetOptions, MotionOptions, SpectrumOptions, SwdOptions
from dfm_plugins.metrics.spectrum import SpectrumDistance
from dfm_plugins.metrics.swd import SlicedWassersteinDistance

FACTS = MetricFacts((8, 16, 16), 3)


def motion(facts: MetricFacts = FACTS) -> MotionDistance:
    return MotionDistance(MotionOptions(), facts)


def swd(facts: MetricFacts = FACTS) -> SlicedWassersteinDistance:
    return SlicedWassersteinDistance(SwdOptions(patches=32, directions=64), facts)


def spectrum(facts: MetricFacts = FACTS) -> SpectrumDistance:
    return SpectrumDistance(SpectrumOptions(), facts)


def grating(turn: float, frames: int = 8) -> Tensor:
    """A clip (1, 1, frames, 16, 16) of a wave of two periods that moves on by `turn` radians a frame."""
    phases = torch.arange(frames)[:, None, None] * turn + torch.arange(16.0) * (2 * math.pi * 2 / 16)
    return 0.5 * torch.sin(phases).expand(frames, 16, 16)[None, None]


@pytest.mark.parametrize("turn", [0.3, 1.0, math.pi])
def test_the_change_of_a_grating_in_closed_form(turn: float) -> None:
    """E(x(t+k) − x(t))² / 2Var(x) = 1 − cos(k·turn), whatever the contrast."""
    metric = motion(MetricFacts((8, 16, 16), 1))
    assert metric.variant == {"frames apart": "1, 2, 4"}
    for contrast in (1.0, 0.1):
        found = metric.features(batch_of(contrast * grating(turn)))
        expected = torch.tensor([1 - math.cos(step * turn) for step in (1, 2, 4)], dtype=torch.float64)
        torch.testing.assert_close(found["change"][0] / (2 * found["variance"][0]), expected, atol=1e-6, rtol=1e-5)


def test_faster_is_positive_and_slower_is_negative() -> None:
    facts = MetricFacts((8, 16, 16), 1)
    faster = score(motion(facts), grating(0.1), grating(0.2))
    assert list(faster) == ["motion", "motion_1", "motion_2", "motion_4"]
    ratio = (1 - math.cos(0.2)) / (1 - math.cos(0.1))
    assert faster["motion_1"] == pytest.approx(10 * math.log10(ratio), rel=1e-4)
    assert score(motion(facts), grating(0.2), grating(0.1))["motion_1"] == pytest.approx(-faster["motion_1"])
    assert score(motion(facts), grating(0.2), 0.5 * grating(0.2))["motion"] == pytest.approx(0, abs=1e-5)


def test_frames_that_have_nothing_to_do_with_each_other_change_by_one() -> None:
    noise = torch.randn(64, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    found = motion().features(batch_of(noise))
    ratio = found["change"].mean(0) / (2 * found["variance"].mean())
    torch.testing.assert_close(ratio, torch.ones(3, dtype=torch.float64), atol=0.01, rtol=0)


def test_shuffled_frames_look_right_and_move_wrongly() -> None:
    """What sees frames gives the very same number; what sees motion gives a worse one."""
    real, samples = moving_clips(64, 0), moving_clips(64, 1)
    wrong = in_another_order(samples)
    before, after = (score(spectrum(), real, clips) for clips in (samples, wrong))
    assert after == pytest.approx(before, rel=1e-5)
    floor, worse = (score(motion(), real, clips) for clips in (samples, wrong))
    assert floor["motion"] < 1 < 2 < worse["motion"]
    assert worse["motion_1"] > 3
    assert score(motion(), real, frozen(samples))["motion_1"] < -20
    # Other frames are drawn for the patches: at the floor all the same.
    assert score(swd(), real, wrong)["swd"] == pytest.approx(score(swd(), real, samples)["swd"], rel=0.3)


@pytest.fixture(scope="module")
def fd() -> ClassifierFrechetDistance:
    """Trained on clips of two directions."""
    metric = ClassifierFrechetDistance(
        ClassifierFrechetOptions(steps=40, training_images=200), MetricFacts((8, 16, 16), 3, ("right", "left"))
    )
    clips = directions(200, 0)
    metric.restore(metric.prepare([batch_of(clips, torch.arange(200) % 2)]))
    return metric


def directions(count: int, seed: int) -> Tensor:
    """Clips that move right and left by turns."""
    clips = moving_clips(count, seed)
    clips[1::2] = clips[1::2].flip(2)
    return clips


def test_the_classifier_sees_motion(fd: ClassifierFrechetDistance) -> None:
    """Direction cannot be told from a frame; clips are further away when their frames are shuffled, or all alike."""
    assert fd.variant["network"] == "classifier of 2 classes of clips"
    assert float(fd.variant["accuracy"]) > 0.8
    real, samples = directions(96, 0), directions(96, 1)
    found = [score(fd, real, clips)["fd"] for clips in (samples, in_another_order(samples), frozen(samples))]
    assert found[0] < 0.3 * min(found[1:])
    assert score(fd, real, real)["fd"] == pytest.approx(0, abs=1e-6)
    one_way = score(fd, real, moving_clips(96, 1))["fd"]
    assert found[0] < 0.5 * one_way
    (message,) = fd.warnings(1000, 64)
    assert message.startswith("fd: 64 samples for features of 64 dimensions")
    assert message.endswith("take more clips")


def test_unlabelled_clips_are_turned_and_shuffled() -> None:
    metric = ClassifierFrechetDistance(ClassifierFrechetOptions(steps=60), MetricFacts((4, 16, 16), 3))
    clips = 0.5 * moving_clips(200, 0, frames=4) + torch.linspace(-0.5, 0.5, 16)[:, None]  # brighter below
    metric.restore(metric.prepare([batch_of(clips)]))
    assert metric.variant["network"] == "classifier of quarter turns and shuffled frames of unlabelled clips"
    assert float(metric.variant["accuracy"]) > 0.5  # of eight answers
    assert isinstance(metric.extractor, ClassifierFeatures)
    assert metric.extractor.network.head.out_features == 8


def test_a_shuffled_clip_is_another_one_of_the_same_frames() -> None:
    clip = torch.arange(3.0)[None, :, None, None].expand(1, 3, 2, 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        order = shuffled(clip, generator)[0, :, 0, 0].tolist()
        assert sorted(order) == [0, 1, 2]
        assert order != [0, 1, 2]


def test_clips_are_shrunk_frame_by_frame() -> None:
    clips = moving_clips(2, 0, frames=3, side=32)
    found = shrunk(clips, 8)
    assert found.shape == (2, 3, 3, 8, 8)
    assert torch.equal(found[:, :, 1], shrunk(clips[:, :, 1], 8))


@pytest.mark.parametrize("make", [swd, spectrum, motion])
def test_identical_sets_are_at_zero_and_noise_is_far(make: object) -> None:
    metric: Metric = make()  # type: ignore[operator]
    real, samples = moving_clips(128, 0), moving_clips(128, 1)
    (same, *_) = score(metric, real, real).values()
    (floor, *_) = score(metric, real, samples).values()
    (rough, *_) = score(metric, real, noisy(samples, 0.5)).values()
    assert same == pytest.approx(0, abs=1e-6)
    assert floor < 0.6 * rough


def test_a_clip_of_one_picture_has_that_pictures_numbers() -> None:
    """Of still clips, spectrum is that of the images, bit for bit but for the mean over frames."""
    clips = frozen(moving_clips(16, 0))
    of_clips = spectrum().features(batch_of(clips))["power"]
    of_images = spectrum(MetricFacts((16, 16), 3)).features(batch_of(clips[:, :, 0]))["power"]
    torch.testing.assert_close(of_clips, of_images, rtol=1e-5, atol=0)
    patches = swd().features(batch_of(clips))["16"]
    of_images = swd(MetricFacts((16, 16), 3)).features(batch_of(clips[:, :, 0]))["16"]
    torch.testing.assert_close(patches, of_images, rtol=1e-5, atol=1e-6)


def test_several_vectors_of_a_clip_are_as_many_samples() -> None:
    features = torch.randn(20, 5, 4, generator=torch.Generator().manual_seed(0))
    together, flat = gaussian_of(features), gaussian_of(features.reshape(100, 4))
    assert frechet_distance(together, flat) == pytest.approx(0, abs=1e-12)
    values = features.reshape(100, 4).double().numpy()
    torch.testing.assert_close(together.factor.T @ together.factor, torch.from_numpy(np.cov(values, rowvar=False)))
    other = Gaussian(together.mean + 2, together.factor)
    assert frechet_distance(together, other) == pytest.approx(16)


def test_frames_at_equal_distances() -> None:
    assert spread(8, None) == list(range(8))
    assert spread(16, 4) == [0, 5, 10, 15]
    assert spread(9, 1) == [4]
    assert spread(4, 8) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert spread(1, 16) == [0] * 16


def test_what_has_no_motion_is_refused() -> None:
    with pytest.raises(UsageError, match="metric motion: expected clips of at least 2 frames"):
        motion(MetricFacts((16, 16), 3))
    with pytest.raises(UsageError, match="metric swd: expected clips of at least 7×7, got 8x4x16"):
        swd(MetricFacts((8, 4, 16), 3))
