"""What a run will need, before it starts: shapes, parameters, FLOPs and memory, computed without data or weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from dfm_core.assembly import Assembler, check_latents, check_schedule, stage_layout
from dfm_core.batch_shares import VisibleShares
from dfm_core.composition import DataDescription, check_other_sizes
from dfm_core.interfaces.backbone import Backbone
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageScheduleFacts
from dfm_core.interfaces.timestep_sampler import TimestepSampler, TimestepSamplerFacts
from dfm_core.network_facts import expected, mean_square, meta_batch
from dfm_core.plugins.kinds import RUN_KINDS
from dfm_core.stages import StageLayout, format_size

FLOAT_BYTES = 4
STAGE_COPIES = 10
"""Tensors of a micro-batch's size that a step holds at once, all stages together: images, stages, noise, noisy, masked
and scaled stages, outputs, velocities, targets, errors. Measured: 9.5 at 512 and 1024 pixels, on a CPU."""


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a run.

    stages: per stage its resolution in the decomposition's units and the shape of its tensor. backbone: what the
    network says of itself. flops: of forward and backward of one optimiser step, on average (flow.batch_shares).
    generation_steps: of the schedule.
    Memory in bytes: state (weights, gradients, two moments, EMA, all float32), activations (what autograd keeps of one
    micro-batch, attention in fused kernels), stage_bytes (data, noise, noisy inputs, velocities and so on of one).
    """

    stages: list[dict[str, str]]
    backbone: dict[str, str]
    parameters: int
    flops: int
    generation_steps: int
    state_bytes: int
    activation_bytes: int
    stage_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Estimated peak of tensors during a step, without what Python and torch take themselves (0.5 GB)."""
        return self.state_bytes + self.activation_bytes + self.stage_bytes


def plan_training(assembler: Assembler, data: DataDescription) -> TrainingPlan:
    """Make everything but the weights (on the meta device), see that it fits together, and count."""
    config = assembler.config
    assembler.check_media(kind for kind in RUN_KINDS if kind != "dataset")
    autoencoder = assembler.autoencoder(data.channels, torch.device("cpu"))
    decomposition = assembler.decomposition(autoencoder)
    check_latents(data, autoencoder, decomposition)
    check_other_sizes(data, autoencoder, decomposition)
    layout = stage_layout(decomposition)
    grid, sampler = plan_generation(assembler, layout)
    assembler.path(decomposition, (1.0,) * len(layout)).check_grid(grid)
    with torch.device("meta"):
        backbone = assembler.backbone(layout, data)
    training = config.training
    micro_batch = -(-training.batch_size // training.accumulation)
    kinds = assembler.batch_shares(sampler).kinds(micro_batch, sampler.visible_probabilities())
    measured = [measure_step(backbone, layout, kind.rows, data, kind.shares) for kind in kinds]
    flops = expected(kinds, [cost for cost, _ in measured])
    parameters = sum(p.numel() for p in backbone.parameters())
    return TrainingPlan(
        stages=[{"resolution": format_size(s.resolution), "shape": "x".join(map(str, s.shape))} for s in layout],
        backbone=backbone.describe(),
        parameters=parameters,
        flops=flops * training.batch_size // micro_batch,
        generation_steps=grid.num_steps,
        state_bytes=5 * FLOAT_BYTES * parameters,
        activation_bytes=max(size for _, size in measured),
        stage_bytes=STAGE_COPIES * FLOAT_BYTES * micro_batch * sum(s.numel for s in layout),
    )


def plan_generation(assembler: Assembler, layout: StageLayout) -> tuple[ScheduleGrid, TimestepSampler]:
    """Make schedule and sampler as for stages of root mean square 1, and see that training covers what is visited."""
    sigmas = (1.0,) * len(layout)
    grid: ScheduleGrid = assembler.make("stage_schedule", StageScheduleFacts(len(layout), sigmas)).grid()
    sampler: TimestepSampler = assembler.make("timestep_sampler", TimestepSamplerFacts(len(layout), grid))
    check_schedule(assembler, grid, sampler, sigmas)
    return grid, sampler


def measure_step(
    backbone: Backbone, layout: StageLayout, batch: int, data: DataDescription, shares: VisibleShares
) -> tuple[int, int]:
    """FLOPs of forward and backward, and bytes that autograd keeps in between, for a batch on the meta device.

    shares: how often which stages are visible.
    """
    arguments = meta_batch(backbone, layout, batch, bool(data.classes), shares)
    kept = _Kept()
    weights = {p.untyped_storage()._cdata for p in backbone.parameters()}
    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(kept.keep, lambda tensor: tensor), _FusedAttention(kept):
            velocities = backbone(*arguments)
        mean_square(velocities).backward()
    return int(counter.get_total_flops()), sum(size for key, size in kept.sizes.items() if key not in weights)


class _Kept:
    """Bytes of the storages that are kept for the backward pass."""

    def __init__(self) -> None:
        self.sizes: dict[Any, int] = {}
        self._alive: list[Tensor] = []

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.sizes[storage._cdata] = storage.nbytes()
        self._alive.append(tensor)  # else another storage may get its address
        return tensor


class _FusedAttention(TorchFunctionMode):
    """Keep of attention what the fused kernels keep: its inputs, its output and one number a row.

    On the meta device torch takes the plain way, which keeps the weights of all pairs of tokens.
    """

    def __init__(self, kept: _Kept) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
            output = func(*args, **(kwargs or {}))
        inputs = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        for tensor in (*inputs, output, output.detach().new_empty(output.shape[:-1])):
            self._kept.keep(tensor)
        return output
