"""Preconditioning: unit second moments, the best linear skip, and a model that is transparent where it should be."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dfm_core.errors import CompositionError, ConfigError, StageShapeError
from dfm_core.flow import interpolate, velocity_target
from dfm_core.interfaces.backbone import Backbone, BackboneFacts, Conditioning
from dfm_core.plugins import Options
from dfm_core.preconditioning import PreconditioningMode, VelocityModel, preconditioning_coefficients
from dfm_core.stages import StageLayout, Stages, StageShape

SAMPLES = 400_000
TIMES = (0.0, 0.05, 0.3, 0.5, 0.8, 0.95, 1.0)
FACTS = BackboneFacts(StageLayout((StageShape((2, 2), (1, 2, 2)), StageShape((4, 4), (1, 4, 4)))), num_classes=0)
NONE = Conditioning()


class Recorder(Backbone):
    """Returns a fixed function of its input, and keeps what it was given."""

    def __init__(self, facts: BackboneFacts = FACTS, dtype: torch.dtype | None = None) -> None:
        super().__init__(Options(), facts)
        self.dtype = dtype

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        self.given = tuple(noisy_stages)
        return tuple((stage.sin() + 0.3).to(self.dtype or stage.dtype) for stage in noisy_stages)


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Stages, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    stages = tuple(torch.randn(3, *stage.shape, generator=generator, dtype=dtype) for stage in FACTS.layout)
    visible = torch.tensor([[True, True], [True, False], [True, True]])
    return stages, torch.where(visible, torch.rand(3, 2, generator=generator), 0), visible


@pytest.mark.parametrize("mean_share", [0.0, 0.8])
@pytest.mark.parametrize("sigma", [0.05, 0.11, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("mode", ["edm", "unit"])
def test_input_and_target_have_unit_second_moments(mode: PreconditioningMode, sigma: float, mean_share: float) -> None:
    # mean_share: part of the root mean square that is a constant, as in data that is not centred.
    generator = torch.Generator().manual_seed(1)
    noise, spread = torch.randn(2, SAMPLES, generator=generator)
    data = sigma * (mean_share + (1 - mean_share**2) ** 0.5 * spread)
    for time in TIMES:
        t = torch.full((1, 1), time)
        scales = preconditioning_coefficients(t, torch.tensor([sigma]), mode)
        noisy = interpolate(noise[None], data[None], t[:, 0])
        target = (velocity_target(noise, data) - scales.c_skip * noisy) / scales.c_out
        assert (scales.c_in * noisy).square().mean().item() == pytest.approx(1, abs=0.01)
        assert target.square().mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 3.0])
def test_edm_skip_is_the_regression_of_the_velocity(sigma: float) -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
    scales = preconditioning_coefficients(t, torch.tensor([sigma], dtype=torch.float64), "edm")
    # Moments of v = X1 − X0 and X_t = t X1 + (1−t) X0, for independent data of variance σ² and unit noise.
    covariance, variance = t * sigma**2 - (1 - t), t**2 * sigma**2 + (1 - t) ** 2
    torch.testing.assert_close(scales.c_skip, covariance / variance)
    torch.testing.assert_close(scales.c_out.square(), 1 + sigma**2 - covariance**2 / variance)
    torch.testing.assert_close(scales.c_in.square() * variance, torch.ones_like(t))


def test_coefficients_are_finite_everywhere_and_sigma_is_floored() -> None:
    t = torch.tensor([[0.0, 0.0], [0.5, 1.0], [1.0, 0.999]])
    tiny = preconditioning_coefficients(t, torch.tensor([0.0, 1e-9]), "edm")
    floor = preconditioning_coefficients(t, torch.tensor([1e-3, 1e-3]), "edm")
    for name in ("c_in", "c_skip", "c_out"):
        assert torch.isfinite(getattr(tiny, name)).all()
        assert torch.equal(getattr(tiny, name), getattr(floor, name))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_coefficients_are_float32_at_least(dtype: torch.dtype) -> None:
    scales = preconditioning_coefficients(torch.rand(2, 1).to(dtype), torch.ones(1), "edm")
    assert scales.c_in.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_none_is_the_backbone_itself() -> None:
    stages, t, visible = batch()
    model = VelocityModel(Recorder(), "none", [0.3, 0.1])
    shown = (stages[0], stages[1] * visible[:, 1, None, None, None])
    for velocity, expected in zip(
        model(stages, t, visible, NONE), model.backbone(shown, t, visible, NONE), strict=True
    ):
        assert torch.equal(velocity, expected)


def test_edm_combines_skip_and_network() -> None:
    stages, t, visible = batch(dtype=torch.float64)
    sigmas = torch.tensor([0.7, 0.2])
    velocities = VelocityModel(Recorder(), "edm", sigmas)(stages, t.double(), visible, NONE)
    for index, (stage, velocity) in enumerate(zip(stages, velocities, strict=True)):
        for sample in range(3):
            if visible[sample, index]:
                time, sigma = t[sample, index].item(), sigmas[index].item()
                variance = time**2 * sigma**2 + (1 - time) ** 2
                network = (stage[sample] / variance**0.5).sin() + 0.3
                expected = (time * sigma**2 - (1 - time)) / variance * stage[sample] + sigma / variance**0.5 * network
                torch.testing.assert_close(velocity[sample], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["edm", "unit", "none"])
def test_invisible_stages_reach_the_backbone_as_zeros(mode: PreconditioningMode) -> None:
    stages, t, visible = batch()
    model = VelocityModel(Recorder(), mode, [1.0, 0.1])
    broken = (stages[0], torch.where(visible[:, 1, None, None, None], stages[1], torch.nan))
    kept = [stage.clone() for stage in broken]
    velocities = model(broken, t, visible, NONE)
    assert not model.backbone.given[1][1].any()
    assert all(torch.isfinite(velocity).all() for velocity in velocities)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(broken, kept, strict=True))
    for velocity, clean in zip(velocities, model(stages, t, visible, NONE), strict=True):
        assert torch.equal(velocity, clean)


@pytest.mark.parametrize("mode", ["edm", "unit", "none"])
def test_bfloat16_networks_are_combined_in_float32(mode: PreconditioningMode) -> None:
    stages, t, visible = batch()
    exact = VelocityModel(Recorder(), mode, [1.0, 0.1])(stages, t, visible, NONE)
    rounded = VelocityModel(Recorder(dtype=torch.bfloat16), mode, [1.0, 0.1])(stages, t, visible, NONE)
    for a, b in zip(rounded, exact, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.01, atol=0.01)


def test_statistics_travel_with_the_weights_and_do_not_train() -> None:
    model = VelocityModel(Recorder(), "edm", [0.5, 0.25])
    other = VelocityModel(Recorder(), "edm", [1.0, 1.0])
    other.load_state_dict(model.state_dict())
    assert other.stage_sigmas.tolist() == [0.5, 0.25]
    assert model.stage_sigmas.dtype == torch.float32
    assert not list(model.parameters())


def test_what_does_not_fit_is_refused() -> None:
    stages, t, visible = batch()
    with pytest.raises(ConfigError, match="edm, unit, none"):
        VelocityModel(Recorder(), "vp", [1.0, 1.0])
    with pytest.raises(CompositionError, match="finite"):
        VelocityModel(Recorder(), "edm", [1.0, float("nan")])
    with pytest.raises(StageShapeError, match="expected 3 stages"):
        VelocityModel(Recorder(), "edm", [1.0] * 3)(stages, t, visible, NONE)
    with pytest.raises(StageShapeError, match="visible"):
        VelocityModel(Recorder(), "edm", [1.0] * 2)(stages, t[:, 0], visible, NONE)
