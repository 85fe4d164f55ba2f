"""Sliced Wasserstein distance and spectrum: independent references, known answers, images that get worse."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from metric_inputs import batch_of, blurred, noisy, score, smooth_images, textured_images

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import MetricFacts
from dfm_plugins.metrics.specs import SpectrumOptions, SwdOptions
from dfm_plugins.metrics.spectrum import SpectrumDistance, octaves
from dfm_plugins.metrics.swd import (
    SlicedWassersteinDistance,
    laplacian_pyramid,
    normalised,
    sliced_wasserstein,
)

FACTS = MetricFacts((32, 32), 3)


def swd(**options: int) -> SlicedWassersteinDistance:
    return SlicedWassersteinDistance(SwdOptions(patches=32, directions=64).model_copy(update=options), FACTS)


def test_the_pyramid_is_the_one_of_the_original_code() -> None:
    """SciPy's convolution with the binomial filter, mirrored edges, every second pixel; enlarged with four times it."""
    row = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = np.outer(row, row)
    image = smooth_images(1, 0, 32).double()
    fine, coarse = laplacian_pyramid(image, 2)
    for channel in range(3):
        values = image[0, channel].numpy()
        down = scipy.ndimage.convolve(values, kernel, mode="mirror")[::2, ::2]
        spread = np.zeros_like(values)
        spread[::2, ::2] = down
        up = scipy.ndimage.convolve(spread, 4 * kernel, mode="mirror")
        np.testing.assert_allclose(coarse[0, channel], down, atol=1e-12)
        np.testing.assert_allclose(fine[0, channel], values - up, atol=1e-12)


def test_the_distance_is_the_mean_of_scipys() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(300, 8, generator=generator), torch.randn(300, 8, generator=generator) * 1.5
    directions = torch.nn.functional.normalize(torch.randn(8, 70, generator=generator), dim=0)
    expected = np.mean(
        [scipy.stats.wasserstein_distance(first @ part, second @ part) for part in directions.T.unbind(0)]
    )
    assert sliced_wasserstein(first, second, directions) == pytest.approx(float(expected), rel=1e-5)


def test_patches_are_normalised_over_the_set_and_channel() -> None:
    patches = torch.rand(5, 6, 3 * 49) * torch.tensor([1.0, 5.0, 9.0]).repeat_interleave(49)
    channels = normalised(patches, 3).reshape(30, 3, 49)
    torch.testing.assert_close(channels.mean((0, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(channels.std((0, 2), correction=0), torch.ones(3))


def test_levels_and_patches() -> None:
    metric = SlicedWassersteinDistance(SwdOptions(), MetricFacts((64, 96), 1))
    assert metric.variant == {"patch": 7, "patches": 128, "directions": 512, "levels": 3, "seed": 0}
    assert metric.levels == [(64, 96), (32, 48), (16, 24)]
    found = metric.features(batch_of(torch.zeros(2, 1, 64, 96)))
    assert {name: tuple(rows.shape) for name, rows in found.items()} == dict.fromkeys(
        ("64x96", "32x48", "16x24"), (2, 128, 49)
    )
    assert SwdOptions().directions == 512
    with pytest.raises(UsageError, match="at least 7×7, got 4x8"):
        SlicedWassersteinDistance(SwdOptions(), MetricFacts((4, 8), 3))


def test_identical_sets_are_at_the_floor() -> None:
    real, again = smooth_images(128, 0), smooth_images(128, 1)
    metric = swd()
    features = metric.features(batch_of(real))
    assert metric.against(features)(features)["swd"] == 0
    floor = metric.against(features)(metric.features(batch_of(again)))["swd"]
    same_images = metric.against(features)(metric.features(batch_of(real.flip(0))))["swd"]  # other patches of them
    assert 0 < same_images < 1.5 * floor
    assert floor < 0.6 * metric.against(features)(metric.features(batch_of(blurred(again, 2.0))))["swd"]


def test_a_reference_that_was_stored_in_another_order_changes_no_bit() -> None:
    metric = SlicedWassersteinDistance(SwdOptions(), MetricFacts((64, 64), 1))
    images = torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    reference, samples = (metric.features(batch_of(part)) for part in images.chunk(2))
    found = metric.against(reference)(samples)
    assert list(found.items()) == list(metric.against(dict(sorted(reference.items())))(samples).items())
    assert list(found) == ["swd", "swd_64", "swd_32", "swd_16"]


def test_worse_images_are_further_away() -> None:
    real, samples = smooth_images(128, 0), smooth_images(128, 1)
    for metric, name in ((swd(), "swd"), (SpectrumDistance(SpectrumOptions(), FACTS), "spectrum")):
        soft = [score(metric, real, images)[name] for images in (samples, blurred(samples, 0.7), blurred(samples, 2))]
        rough = [score(metric, real, noisy(samples, amount))[name] for amount in (0.0, 0.1, 0.4)]
        assert soft == sorted(soft), name
        assert rough == sorted(rough), name
        assert soft[0] < 0.6 * soft[2], name


def test_missing_classes_are_seen() -> None:
    """Classes of different gratings: patches of half of them are other patches."""
    real = textured_images(128, 0)
    distances = [score(swd(), real, textured_images(128, 1, kept))["swd"] for kept in (4, 2, 1)]
    assert distances == sorted(distances)
    assert distances[0] < 0.3 * distances[2]


def test_the_seed_decides() -> None:
    real, samples = smooth_images(16, 0), smooth_images(16, 1)
    assert score(swd(), real, samples) == score(swd(), real, samples)
    assert score(swd(), real, samples) != score(swd(seed=1), real, samples)


def test_twice_the_contrast_is_six_decibels_in_every_band() -> None:
    real = 0.4 * smooth_images(8, 0)
    found = score(SpectrumDistance(SpectrumOptions(bands=4), FACTS), real, 2 * real)
    assert list(found) == ["spectrum", *(f"spectrum_{band}" for band in range(1, 5))]
    for value in found.values():
        assert value == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_the_bands_are_named() -> None:
    for side, bands in ((32, 4), (2, 1)):
        metric = SpectrumDistance(SpectrumOptions(), MetricFacts((side, side), 3))
        assert metric.variant == {"bands": bands, "window": "Hann"}


def test_blur_shows_in_the_finest_octave_with_its_sign() -> None:
    real = smooth_images(32, 0)
    found = score(SpectrumDistance(SpectrumOptions(), FACTS), real, blurred(real, 1.0))
    assert found["spectrum_1"] < -10 < -1 < found["spectrum_4"]


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (8, 8)])
def test_octaves_share_the_frequencies_out(size: tuple[int, int]) -> None:
    masks = octaves(size, 8)
    assert masks.any(-1).any(-1).all()
    total = masks.int().sum(0)
    assert total[0, 0] == 0  # the mean
    total[0, 0] = 1
    assert (total == 1).all()
