"""The plan of a run: parameters, FLOPs and memory against independent counts, and against what a step really does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dfm_core.assembly import Assembler
from dfm_core.composition import DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.errors import CompositionError, ConfigError
from dfm_core.interfaces.backbone import Conditioning
from dfm_core.plan import STAGE_COPIES, TrainingPlan, plan_training
from dfm_core.plugins.registry import default_registry

DATA = DataDescription(3, tuple("abcdefgh"))


def assembler(**values: Any) -> Assembler:
    registry = default_registry()
    return Assembler(resolve_config(ConfigRequest(values={"device": "cpu", **values}), registry).config, registry)


def plan(data: DataDescription = DATA, **values: Any) -> TrainingPlan:
    return plan_training(assembler(**values), data)


DIT = {"name": "dit", "options": {"depth": 3, "width": 96, "heads": 3}}


def test_it_counts_what_a_step_really_does() -> None:
    training = {"batch_size": 4}
    planned = plan(stages=[16, 32], backbone=DIT, training=training)
    made = assembler(stages=[16, 32], backbone=DIT, training=training)
    decomposition = made.decomposition(made.autoencoder(3, torch.device("cpu")))
    layout = decomposition.layout((3, 32, 32))
    backbone = made.backbone(layout, DATA)
    assert planned.parameters == sum(parameter.numel() for parameter in backbone.parameters())
    noisy = [torch.randn(4, *stage.shape) for stage in layout]
    # The counter does not know the fused attention of CPUs.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        t, visible = torch.rand(4, 2), torch.ones(4, 2, dtype=torch.bool)
        velocities = backbone(noisy, t, visible, Conditioning(torch.zeros(4, dtype=torch.int64)))
        torch.stack([velocity.square().mean() for velocity in velocities]).sum().backward()
    assert planned.flops == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_flops_are_six_per_parameter_and_token() -> None:
    sizes = {"depth": 12, "width": 384, "heads": 6}
    planned = plan(stages=[32, 64], backbone={"name": "dit", "options": sizes}, training={"batch_size": 8})
    on_tokens = 12 * 12 * 384**2  # of each block: 4 width² for attention, 8 width² for the MLP
    attention = 12 * 2 * 256 * 384
    assert planned.flops == pytest.approx(6 * (on_tokens + attention) * 256 * 8, rel=0.03)


def test_memory() -> None:
    planned = plan(stages=[16, 32], backbone=DIT, training={"batch_size": 8})
    assert planned.state_bytes == 5 * 4 * planned.parameters
    assert planned.stage_bytes == STAGE_COPIES * 4 * 8 * 3 * (16**2 + 32**2)
    tokens = 8 * 256 * 96 * 4
    assert 3 * 10 * tokens < planned.activation_bytes < 3 * 40 * tokens
    assert planned.memory_bytes == planned.state_bytes + planned.activation_bytes + planned.stage_bytes


def test_accumulation_saves_memory_and_no_work() -> None:
    whole, parts = (plan(stages=[16, 32], backbone=DIT, training={"batch_size": 8, "accumulation": n}) for n in (1, 4))
    assert parts.flops == whole.flops
    assert parts.activation_bytes == pytest.approx(whole.activation_bytes / 4, rel=0.05)
    assert parts.state_bytes == whole.state_bytes


def test_stages_as_they_reach_the_network() -> None:
    options = {"wavelet": "db2", "domain": "coefficients"}
    planned = plan(stages=[16, 32, 64], backbone=DIT, decomposition={"name": "dwt", "options": options})
    shapes = [{"resolution": "16", "shape": "3x16x16"}, {"resolution": "32", "shape": "9x16x16"}]
    assert planned.stages == [*shapes, {"resolution": "64", "shape": "9x32x32"}]
    assert planned.backbone["tokens"] == "16x16 = 256"
    assert planned.generation_steps == 50


def test_data_without_labels_needs_no_table_of_labels() -> None:
    settings: dict[str, Any] = {"stages": [16, 32], "backbone": DIT}
    difference = plan(**settings).parameters - plan(DataDescription(3, ()), **settings).parameters
    assert difference == (8 + 1) * 96


def test_no_weights_are_made() -> None:
    planned = plan(stages=[32, 64], backbone={"name": "dit", "options": {"size": "XL"}})
    assert planned.parameters > 600e6


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 2 for 2 stages"):
        plan(stages=[16, 32], stage_schedule={"name": "progressive", "options": {"steps": [1, 2, 3]}})
    sampler = {"name": "progressive", "options": {"stage_probs": [1.0, 0.0]}}
    with pytest.raises(CompositionError, match="never draws in training"):
        plan(stages=[16, 32], timestep_sampler=sampler)
