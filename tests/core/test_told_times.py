"""What t the network is told, in training and in generation, on paths that do not tell it the schedule's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from dfm_core.assembly import Assembler
from dfm_core.composition import DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.interfaces.backbone import Backbone, BackboneFacts, Conditioning
from dfm_core.interfaces.path import PathFacts
from dfm_core.model import Model
from dfm_core.plugins import Options
from dfm_core.plugins.registry import default_registry
from dfm_core.preconditioning import VelocityModel
from dfm_core.stage_space import StageStatistics
from dfm_core.stages import StageLayout, Stages, StageShape

LAYOUT = StageLayout((StageShape((2, 2), (1, 2, 2)), StageShape((4, 4), (1, 4, 4))))


class Told(Backbone):
    """Keeps the t that it was told."""

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        self.t = t
        return tuple(torch.zeros_like(stage) for stage in noisy_stages)


@pytest.mark.parametrize("mode", ["edm", "none"])
def test_the_network_is_told_pyramidal_flow_s_one_clock(mode: str) -> None:
    """Two stages: intervals 0 … 3/7 and 3/7 … 1, as long as the windows 1 − 1/2 and 2/3 − 0."""
    path = default_registry().create("path", "pyramidal", {}, PathFacts(LAYOUT, (1.0, 1.0), whole_stages=True))
    backbone = Told(Options(), BackboneFacts(LAYOUT, 0))
    model = VelocityModel(backbone, mode, (1.0, 1.0), path)  # type: ignore[arg-type]
    visible = torch.tensor([[True, False], [False, True]])
    noisy = tuple(torch.randn(2, *stage.shape) for stage in LAYOUT)
    model(noisy, torch.tensor([[0.5, 0.0], [0.0, 0.5]]), visible, Conditioning())
    assert backbone.t[visible].tolist() == pytest.approx([3 / 14, 5 / 7], abs=1e-6)


def told_in_generation(preset: str) -> tuple[Tensor, Tensor]:
    """What an untrained network is told in a generation, and the schedule's t before each step; both (steps, S)."""
    network = {"options": {"depth": 1, "width": 16, "heads": 1}}
    values = {"stages": [8, 16], "device": "cpu", "backbone": network}
    config = resolve_config(ConfigRequest(presets=(preset,), values=values)).config
    assembler = Assembler(config, default_registry())
    statistics = StageStatistics((0.5, 0.5), (0.5, 0.5), 1)
    composition = assembler.compose(DataDescription(3, ("a",)), statistics, torch.device("cpu"))
    told: list[Tensor] = []

    def keep(_module: nn.Module, arguments: tuple[Sequence[Tensor], Tensor, Tensor, Conditioning]) -> None:
        told.append(arguments[1][0].double())

    composition.model.backbone.register_forward_pre_hook(keep)
    Model(composition, assembler).generate(1)
    return torch.stack(told), composition.grid.t[:-1]


def test_a_cascade_tells_its_network_how_clean_the_finished_stage_is() -> None:
    told, grid = told_in_generation("cascaded-second")
    torch.testing.assert_close(told[:20, 0], grid[:20, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(told[20:, 0], torch.full((20,), 0.975, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(told[:, 1], grid[:, 1], atol=1e-6, rtol=0)


def test_pyramidal_flow_s_clock_runs_through_a_generation() -> None:
    told, _ = told_in_generation("pyramidal-flow")
    clock = torch.cat([told[:20, 0], told[20:, 1]])
    want = torch.cat([torch.arange(20) / 20 * 3 / 7, 3 / 7 + torch.arange(20) / 20 * 4 / 7]).double()
    torch.testing.assert_close(clock, want, atol=1e-6, rtol=0)
