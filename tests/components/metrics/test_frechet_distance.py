"""The Fréchet distance: closed forms, SciPy's matrix square root, few samples; and `fd` on images that get worse."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import scipy.linalg
import torch
from metric_inputs import CLASSES, batch_of, blurred, noisy, score, smooth_images, textured_images
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import MetricFacts
from dfm_plugins.metrics.classifier import ClassifierFrechetDistance
from dfm_plugins.metrics.frechet import gaussian_of
from dfm_plugins.metrics.gaussians import Gaussian, Moments, frechet_distance, moments_of
from dfm_plugins.metrics.specs import ClassifierFrechetOptions


def reference_distance(first: Tensor, second: Tensor) -> float:
    """As the original FID code computes it."""
    means = [features.double().numpy().mean(0) for features in (first, second)]
    covariances = [np.cov(features.double().numpy(), rowvar=False) for features in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    traces = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root)
    return float(((means[0] - means[1]) ** 2).sum() + traces)


def features(count: int, dimensions: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator) / dimensions**0.5
    return torch.randn(count, dimensions, generator=generator) @ mixing + 0.1 * seed


@pytest.mark.parametrize(("count", "other"), [(400, 300), (300, 400), (65, 1000)])
def test_agrees_with_scipy(count: int, other: int) -> None:
    first, second = features(count, 64, 1), features(other, 64, 2)
    expected = reference_distance(first, second)
    assert frechet_distance(gaussian_of(first), gaussian_of(second)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("parts", [(7, 1, 392), (100, 300), (1,) * 400])
def test_moments_of_parts_agree_with_scipy(parts: tuple[int, ...]) -> None:
    """Far from the origin, where sums of squares would lose digits."""
    first, second = features(400, 16, 1) + 1000, features(300, 16, 2) + 1000
    joined = reduce(Moments.joined, map(moments_of, first.split(parts)))
    assert joined.count == 400
    distance = frechet_distance(joined.gaussian(), gaussian_of(second))
    assert distance == pytest.approx(reference_distance(first, second), rel=1e-6)


def test_large_sets_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = features(400, 16, 1), features(300, 16, 2)
    monkeypatch.setattr("dfm_plugins.metrics.gaussians._ROWS_AT_ONCE", 50)
    distance = frechet_distance(gaussian_of(first), gaussian_of(second))
    assert distance == pytest.approx(reference_distance(first, second), rel=1e-6)


@pytest.mark.parametrize(("count", "other"), [(20, 500), (500, 20), (20, 30)])
def test_sets_smaller_than_the_dimensions(count: int, other: int) -> None:
    """Against Σ₁^½ from its own eigenvectors, in place of SciPy's root, which loses digits here."""
    first, second = features(count, 64, 1).double(), features(other, 64, 2).double()
    covariances = [torch.cov(part.T) for part in (first, second)]
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    inner = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0).sqrt().sum()
    traces = covariances[0].trace() + covariances[1].trace() - 2 * inner
    expected = float((first.mean(0) - second.mean(0)).square().sum() + traces)
    assert frechet_distance(gaussian_of(first), gaussian_of(second)) == pytest.approx(expected, rel=1e-5)


def test_gaussians_in_closed_form() -> None:
    """Diagonal covariances: |μ₁ − μ₂|² + Σ (σ₁ − σ₂)²."""
    sigmas = torch.tensor([[0.5, 1.0, 2.0], [1.5, 1.0, 0.25]], dtype=torch.float64)
    means = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
    gaussians = [Gaussian(mean, torch.diag(sigma)) for mean, sigma in zip(means, sigmas, strict=True)]
    expected = float((means[0] - means[1]).square().sum() + (sigmas[0] - sigmas[1]).square().sum())
    assert frechet_distance(*gaussians) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(gaussians[0], gaussians[0]) == pytest.approx(0, abs=1e-12)


def test_a_draw_comes_near_its_gaussians_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(200_000, 4, generator=generator) for _ in range(2))
    distance = frechet_distance(gaussian_of(first), gaussian_of(second * 2 + 1))
    assert distance == pytest.approx(4 + 4, rel=0.02)


def test_what_is_not_a_number_stays_so() -> None:
    broken = Gaussian(torch.full((3,), torch.nan, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    whole = Gaussian(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    assert np.isnan(frechet_distance(whole, broken))


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(UsageError, match="needs at least 2 images or clips of either set, got 1"):
        gaussian_of(torch.zeros(1, 4))


@pytest.fixture(scope="module")
def fd() -> ClassifierFrechetDistance:
    """Trained on images of four classes."""
    options = ClassifierFrechetOptions(steps=50, training_images=400)
    metric = ClassifierFrechetDistance(options, MetricFacts((32, 32), 3, ("a", "b", "c", "d")))
    images = textured_images(400, 0)
    metric.restore(metric.prepare([batch_of(images, torch.arange(400) % CLASSES)]))
    return metric


def test_the_classifier_says_how_good_it_is(fd: ClassifierFrechetDistance) -> None:
    assert fd.variant["network"] == "classifier of 4 classes"
    assert fd.variant["seed"] == 0
    assert float(fd.variant["accuracy"]) > 0.5
    assert len(str(fd.variant["digest"])) == 16


def test_worse_images_are_further_away(fd: ClassifierFrechetDistance) -> None:
    real, samples = textured_images(256, 0), textured_images(256, 1)
    worse = [samples, blurred(samples, 1.0), blurred(samples, 2.5)]
    distances = [score(fd, real, images)["fd"] for images in worse]
    assert distances == sorted(distances)
    assert distances[0] < 0.2 * distances[2]
    with_noise = [score(fd, real, noisy(samples, amount))["fd"] for amount in (0.0, 0.2, 0.5)]
    assert with_noise == sorted(with_noise)
    missing = [score(fd, real, textured_images(256, 1, kept))["fd"] for kept in (4, 2, 1)]
    assert missing == sorted(missing)
    assert missing[0] < 0.2 * missing[2]


def test_it_warns_of_few_images(fd: ClassifierFrechetDistance) -> None:
    assert fd.warnings(1000, 1000) == []
    (message,) = fd.warnings(1000, 64)
    assert message.startswith("fd: 64 samples for features of 64 dimensions")


def test_unlabelled_images_are_turned() -> None:
    metric = ClassifierFrechetDistance(ClassifierFrechetOptions(steps=40), MetricFacts((16, 24), 3))
    images = smooth_images(200, 0)[:, :, :16, :24] * 0.3
    images += torch.linspace(-0.6, 0.6, 16)[:, None]  # brighter below
    state = metric.prepare([batch_of(images)])
    metric.restore(state)
    assert metric.variant["network"] == "classifier of quarter turns of unlabelled images"
    assert float(metric.variant["accuracy"]) > 0.9
    again = metric.prepare([batch_of(images)])
    assert all(torch.equal(value, again[name]) for name, value in state.items())
