"""What is true of these components beyond the laws of their kinds, against numbers from elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from dfm_core.errors import ConfigError, StageSizeError
from dfm_core.interfaces.autoencoder import AutoencoderFacts
from dfm_core.interfaces.backbone import BackboneFacts, Conditioning
from dfm_core.interfaces.dataset import DatasetFacts, Split
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.interfaces.path import PathFacts
from dfm_core.interfaces.stage_schedule import StageScheduleFacts
from dfm_core.plugins import Options
from dfm_core.stages import Size, StageLayout, StageShape
from pydantic import ValidationError

from dfm_example.beta import draw_beta
from dfm_example.cosine import CosineSchedule
from dfm_example.kernel_distance import kernel, mean_of_pairs
from dfm_example.orthogonal import Orthogonal
from dfm_example.plugin import (
    BetaOptions,
    CosineOptions,
    OrthogonalOptions,
    SteerableOptions,
    TextOptions,
    UNetOptions,
)
from dfm_example.steerable import Steerable
from dfm_example.text import Text
from dfm_example.trigonometric import Trigonometric
from dfm_example.unet import UNet


def steerable(orientations: int, *sizes: Size) -> Steerable:
    return Steerable(SteerableOptions(orientations=orientations), DecompositionFacts(sizes, 1))


@pytest.mark.parametrize("orientations", [1, 2, 3, 4])
def test_analysis_by_a_tight_frame_keeps_the_norm(orientations: int) -> None:
    x = torch.randn(2, 1, 24, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stages = steerable(orientations, (4, 6), (8, 12), (24, 36)).decompose(x)
    pixels = (36, 9, 1)  # of x that one pixel of the stage's preview covers
    norm = sum(covered * stage.square().sum() for covered, stage in zip(pixels, stages, strict=True))
    assert float(norm / x.square().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("orientations", [2, 3, 4])
@pytest.mark.parametrize("wave", [(0, 12), (12, 0), (9, 9), (-6, 10)])
def test_a_wave_lands_in_the_bands_of_its_direction(orientations: int, wave: tuple[int, int]) -> None:
    down, across = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    x = torch.cos(2 * math.pi / 32 * (wave[0] * down + wave[1] * across) + 0.3).double()
    bands = steerable(orientations, (8, 8), (32, 32)).decompose(x[None, None])[1]
    shares = bands.square().sum((0, 2, 3)) / bands.square().sum()
    angle = math.atan2(*wave)
    expected = [math.cos(angle - math.pi * k / orientations) ** (2 * orientations - 2) for k in range(orientations)]
    assert shares.tolist() == pytest.approx([share / sum(expected) for share in expected], abs=1e-6)


def test_impossible_stages_are_refused_with_the_nearest_that_work() -> None:
    with pytest.raises(StageSizeError, match="got 8, 12; the nearest that work: 6, 12"):
        steerable(3, (8, 8), (12, 12))
    with pytest.raises(StageSizeError, match="along both axes"):
        steerable(3, (8, 8), (16, 24))


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (2, 2), (6, 1), (2, 5)])
def test_order_statistics_are_beta_distributed(alpha: int, beta: int) -> None:
    drawn = draw_beta(alpha, beta, (50_000,), torch.Generator().manual_seed(0)).double()
    mean = alpha / (alpha + beta)
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.005)
    assert float(drawn.var()) == pytest.approx(mean * (1 - mean) / (alpha + beta + 1), rel=0.03)


def test_beta_keeps_the_promise_that_earlier_stages_are_cleaner() -> None:
    with pytest.raises(ValidationError, match="raise earlier_alpha"):
        BetaOptions(alpha=6, beta=1, earlier_alpha=2)


def test_a_stage_sets_off_when_the_one_before_is_nearly_there() -> None:
    grid = CosineSchedule(CosineOptions(steps=(10, 5)), StageScheduleFacts(2, (1.0, 0.1))).grid()
    assert grid.num_steps == 13
    assert grid.t[5, 0] == pytest.approx(0.5)
    assert grid.t[8].tolist() == [pytest.approx(math.sin(0.4 * math.pi) ** 2), 0]  # 0.9045
    assert grid.t[10:].tolist() == [[1, pytest.approx(math.sin(0.1 * math.pi * p) ** 2)] for p in (2, 3, 4, 5)]
    with pytest.raises(ConfigError, match="expected 3 counts"):
        CosineSchedule(CosineOptions(steps=(10, 5)), StageScheduleFacts(3, (1.0, 0.1, 0.1)))


def test_the_circle_keeps_a_variance_of_one() -> None:
    path = Trigonometric(Options(), PathFacts(StageLayout(()), (), whole_stages=False))
    moments = path.moments(torch.linspace(0, 1, 7, dtype=torch.float64)[:, None], torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(moments.noisy, torch.ones_like(moments.noisy))
    torch.testing.assert_close(moments.cross, torch.zeros_like(moments.cross))
    torch.testing.assert_close(moments.velocity.sqrt(), torch.full_like(moments.velocity, math.pi / 2))


def test_latents_are_a_rotation_of_the_patches() -> None:
    made = Orthogonal(OrthogonalOptions(patch=4), AutoencoderFacts(3))
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    latents = made.encode(images)
    assert latents.shape == (2, 48, 2, 3)
    torch.testing.assert_close(latents.square().sum(), images.square().sum())
    torch.testing.assert_close(made.decode(latents), images)
    other = Orthogonal(OrthogonalOptions(patch=4, seed=1), AutoencoderFacts(3))
    assert not torch.allclose(other.matrix, made.matrix, atol=0.1)


def test_text_is_written_anew_in_every_epoch_of_training_only() -> None:
    def image(split: Split, epoch: int) -> torch.Tensor:
        sample = Text(TextOptions(words=("yes", "no")), DatasetFacts((24, 40), split, 0)).load(1, epoch)
        assert sample["label"] == 1
        assert isinstance(sample["image"], torch.Tensor)
        return sample["image"]

    assert float(image("train", 0).std()) > 0.1
    assert not torch.equal(image("train", 0), image("train", 1))
    assert torch.equal(image("validation", 0), image("validation", 1))
    with pytest.raises(ValidationError, match="more than once: a"):
        TextOptions(words=("a", "b", "a"))


def test_the_kernel_distance_of_two_draws_from_one_source_is_zero_on_average() -> None:
    """1-D normal numbers: the estimate is unbiased, so its mean over many small pairs of sets is near 0."""
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(400):
        x, y = (torch.randn(8, 1, dtype=torch.float64, generator=generator) for _ in range(2))
        estimates.append(mean_of_pairs(kernel(x, x)) + mean_of_pairs(kernel(y, y)) - 2 * kernel(x, y).mean())
    found = torch.stack(estimates)
    assert abs(float(found.mean())) < 4 * float(found.std()) / 20


def test_stages_of_one_size_share_a_level() -> None:
    # Two levels of a wavelet transform as coefficients: 3 channels, then 9, then 9 at twice the size.
    shapes = [((8, 8), (3, 8, 8)), ((16, 16), (9, 8, 8)), ((32, 32), (9, 16, 16))]
    layout = StageLayout(tuple(StageShape(*shape) for shape in shapes))
    network = UNet(UNetOptions(width=16), BackboneFacts(layout, 0))
    assert network.level_of == [1, 1, 0]
    noisy = tuple(torch.ones(2, *stage.shape) for stage in layout)
    velocities = network(noisy, torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool), Conditioning())
    assert [v.shape for v in velocities] == [x.shape for x in noisy]
    assert not any(v.any() for v in velocities)  # zero before training
