"""The plan of a run of clips against closed forms: tokens, FLOPs, memory, and the sizes of latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dfm_core.assembly import Assembler, stage_layout
from dfm_core.composition import DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.interfaces.backbone import Conditioning
from dfm_core.plan import STAGE_COPIES, TrainingPlan, plan_training
from dfm_core.plugins.registry import default_registry

DATA = DataDescription(3, tuple("abcdefgh"))
NETWORK: dict[str, Any] = {"name": "video_dit", "options": {"depth": 3, "width": 96, "heads": 3}}


def assembler(**values: Any) -> Assembler:
    registry = default_registry()
    chosen = {"device": "cpu", "backbone": NETWORK, "dataset": "moving_shapes", **values}
    return Assembler(resolve_config(ConfigRequest(values=chosen), registry).config, registry)


def plan(**values: Any) -> TrainingPlan:
    return plan_training(assembler(**values), DATA)


def test_it_counts_what_a_step_really_does() -> None:
    values: dict[str, Any] = {"stages": ["2x8x8", "4x16x16"], "training": {"batch_size": 2}}
    planned, made = plan(**values), assembler(**values)
    layout = stage_layout(made.decomposition(made.autoencoder(3, torch.device("cpu"))))
    backbone = made.backbone(layout, DATA)
    assert planned.parameters == sum(parameter.numel() for parameter in backbone.parameters())
    noisy = [torch.randn(2, *stage.shape) for stage in layout]
    t, visible = torch.rand(2, 2), torch.ones(2, 2, dtype=torch.bool)
    # The counter does not know the fused attention of CPUs.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        velocities = backbone(noisy, t, visible, Conditioning(torch.zeros(2, dtype=torch.int64)))
        torch.stack([velocity.square().mean() for velocity in velocities]).sum().backward()
    assert planned.flops == pytest.approx(counter.get_total_flops(), rel=0.001)


@pytest.mark.parametrize("frames", [4, 16])
def test_activations_are_those_that_a_step_keeps(frames: int) -> None:
    values: dict[str, Any] = {"frames": frames, "stages": [16, 32], "training": {"batch_size": 2}}
    planned, made = plan(**values), assembler(**values)
    layout = stage_layout(made.decomposition(made.autoencoder(3, torch.device("cpu"))))
    backbone, kept = made.backbone(layout, DATA), {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    noisy = [torch.randn(2, *stage.shape) for stage in layout]
    t, visible = torch.rand(2, 2), torch.ones(2, 2, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        velocities = backbone(noisy, t, visible, Conditioning(torch.zeros(2, dtype=torch.int64)))
    assert len(velocities) == 2
    size = sum(bytes_ for pointer, bytes_ in kept.items() if pointer not in weights)
    assert planned.activation_bytes == pytest.approx(size, rel=0.03)


@pytest.mark.parametrize(("frames", "side"), [(4, 8), (8, 8), (16, 4)])
def test_flops_are_six_per_parameter_and_token(frames: int, side: int) -> None:
    """Of a block's weights 12 width², and of attention 2 tokens · width, over the tokens of all frames."""
    sizes = {"depth": 6, "width": 384, "heads": 6, "token_grid": side}
    network = {"name": "video_dit", "options": sizes}
    planned = plan(frames=frames, stages=[16, 32], backbone=network, training={"batch_size": 4})
    tokens = frames * side**2
    assert planned.backbone["tokens"] == f"{frames}x{side}x{side} = {tokens}"
    expected = 6 * 6 * (12 * 384**2 + 2 * tokens * 384) * tokens * 4
    assert planned.flops == pytest.approx(expected, rel=0.03)


def test_factorised_attention_saves_what_it_leaves_out() -> None:
    sizes = {"depth": 6, "width": 96, "heads": 3, "token_grid": 8}
    full, factorised = (
        plan(
            frames=16,
            stages=[16, 32],
            backbone={"name": "video_dit", "options": {**sizes, "attention": attention}},
            training={"batch_size": 1},
        )
        for attention in ("full", "factorised")
    )
    # Half of the blocks attend within a frame (64 tokens), half along time (16), instead of to all 1024.
    saved = 6 * 2 * 96 * 1024 * (6 * 1024 - 3 * 64 - 3 * 16)
    assert full.flops - factorised.flops == pytest.approx(saved, rel=0.01)
    assert full.parameters == factorised.parameters


def test_memory() -> None:
    planned = plan(frames=8, stages=[16, 32], training={"batch_size": 4})
    assert planned.state_bytes == 5 * 4 * planned.parameters
    assert planned.stage_bytes == STAGE_COPIES * 4 * 4 * 3 * 8 * (16**2 + 32**2)
    tokens = 4 * 8 * 64 * 96 * 4
    assert 3 * 10 * tokens < planned.activation_bytes < 3 * 40 * tokens
    # The weights of attention are no part of it: they would grow with the square.
    longer = plan(frames=16, stages=[16, 32], training={"batch_size": 4})
    assert longer.activation_bytes == pytest.approx(2 * planned.activation_bytes, rel=0.02)
    assert longer.parameters == planned.parameters


def test_stages_that_divide_time() -> None:
    planned = plan(stages=["5x16x16", "9x32x32"])
    shapes = [{"resolution": "5x16x16", "shape": "3x5x16x16"}, {"resolution": "9x32x32", "shape": "3x9x32x32"}]
    assert planned.stages == shapes
    assert planned.backbone["tokens"] == "5x8x8 = 320"


@pytest.mark.parametrize(("preset", "tokens", "teraflops"), [("video-quickstart", 128, 20.1), ("video-32", 256, 24.1)])
def test_the_presets_cost_what_their_page_says(preset: str, tokens: int, teraflops: float) -> None:
    config = resolve_config(ConfigRequest(presets=(preset,))).config
    planned = plan_training(Assembler(config, default_registry()), DataDescription(3, tuple("abcdefghijkl")))
    assert planned.backbone["tokens"].endswith(f" = {tokens}")
    assert planned.flops * config.training.max_steps == pytest.approx(teraflops * 1e12, rel=0.01)


@pytest.mark.parametrize(
    ("options", "stages", "gigaflops"),
    [
        ({}, ["8x16x16", "8x32x32"], 378),
        ({}, ["1x16x16", "1x32x32"], 160),
        ({"size": "S", "attention": "factorised", "temporal_patch": 2}, ["16x32x32", "16x64x64"], 1076),
    ],
)
def test_a_step_of_the_default_network_costs_what_its_pages_say(
    options: dict[str, object], stages: list[str], gigaflops: float
) -> None:
    planned = plan(stages=stages, backbone={"name": "video_dit", "options": options})
    assert planned.flops == pytest.approx(gigaflops * 1e9, rel=0.01)
