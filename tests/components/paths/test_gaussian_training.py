"""Gaussian data: a linear network that minimises the training loss on Pyramidal Flow's path is the closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from test_gaussian_systems import covariance_of_pixels, pyramidal_flow
from torch import Tensor, nn

from dfm_core.interfaces.autoencoder import AutoencoderFacts
from dfm_core.interfaces.backbone import Backbone, BackboneFacts, Conditioning
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.interfaces.path import PathFacts
from dfm_core.interfaces.timestep_sampler import TimestepDraw
from dfm_core.objective import FlowObjective
from dfm_core.plugins import Options
from dfm_core.plugins.registry import default_registry
from dfm_core.preconditioning import VelocityModel, preconditioning_coefficients
from dfm_core.randomness import BatchRandomness
from dfm_core.stage_space import StageSpace
from dfm_core.stages import Stages

SIZE, SAMPLES = 4, 20_000
LENGTHS = (4, 16)
"""Numbers of a stage."""


class LinearNetwork(Backbone):
    """F = W·X in every stage."""

    def __init__(self, facts: BackboneFacts) -> None:
        super().__init__(Options(), facts)
        self.weights = nn.ParameterList([torch.zeros(length, length, dtype=torch.float64) for length in LENGTHS])

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        pairs = zip(noisy_stages, self.weights, strict=True)
        return tuple((stage.flatten(1) @ weight.T).reshape(stage.shape) for stage, weight in pairs)


class OneTime:
    """Draws one stage at one t."""

    def __init__(self, stage: int, time: float) -> None:
        self.visible = torch.arange(2) == stage
        self.t = torch.where(self.visible, torch.tensor(time, dtype=torch.float64), 0.0)

    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        visible = self.visible.expand(batch_size, 2)
        return TimestepDraw(self.t.expand(batch_size, 2), visible, visible)


def fitted(objective: FlowObjective, images: Tensor) -> None:
    """Minimise the loss, which is quadratic in the weights."""
    parameters = list(objective.model.parameters())
    optimizer = torch.optim.LBFGS(parameters, max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = objective({"image": images}, BatchRandomness(0, 0, 0, SAMPLES, SAMPLES)).loss
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["edm", "none"])
@pytest.mark.parametrize(("stage", "time"), [(0, 0.3), (1, 0.3), (1, 0.8)])
def test_the_best_linear_network_is_the_closed_form(stage: int, time: float, mode: str) -> None:
    registry = default_registry()
    decomposition = registry.create("decomposition", "downsampled", {}, DecompositionFacts(((2, 2), (4, 4)), 1))
    layout = decomposition.layout((1, SIZE, SIZE))
    path = registry.create("path", "pyramidal", {}, PathFacts(layout, (1.0, 1.0), whole_stages=True))
    pixels = covariance_of_pixels(SIZE)
    white = torch.randn(SAMPLES, SIZE * SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images = (white @ torch.from_numpy(np.linalg.cholesky(pixels)).T).reshape(-1, 1, SIZE, SIZE)
    sigmas = torch.stack([part.square().mean().sqrt() for part in decomposition.decompose(images)])
    model = VelocityModel(LinearNetwork(BackboneFacts(layout, 0)), mode, sigmas, path)  # type: ignore[arg-type]
    space = StageSpace(registry.create("autoencoder", "pixels", {}, AutoencoderFacts(1)), decomposition, (1.0, 1.0))
    draw = OneTime(stage, time)
    fitted(FlowObjective(model, space, draw, 0, 0.0), images)  # type: ignore[arg-type]

    scales = preconditioning_coefficients(draw.t, model.stage_sigmas, mode, path)  # type: ignore[arg-type]
    c_in, c_skip, c_out = (float(getattr(scales, name)[stage]) for name in ("c_in", "c_skip", "c_out"))
    gain = c_skip * np.eye(LENGTHS[stage]) + c_out * c_in * model.backbone.weights[stage].detach().numpy()

    rows = np.repeat(draw.visible.numpy(), LENGTHS)
    noisy, velocities = (part.rows(rows) for part in pyramidal_flow(SIZE, 2)(draw.t.numpy()))
    seen = noisy.covariance(noisy, pixels)
    off = gain - velocities.covariance(noisy, pixels) @ np.linalg.inv(seen)
    # Root mean square of the difference of velocities, against that of the velocity: √(numbers / samples) by chance.
    error = np.sqrt(np.trace(off @ seen @ off.T) / np.trace(velocities.covariance(velocities, pixels)))
    assert error < 0.04
