"""What a run will need, before it starts: shapes, parameters, FLOPs and memory, computed without data or weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch

from dfm_core.assembly import Assembler, check_latents, stage_layout
from dfm_core.composition import DataDescription, check_other_sizes
from dfm_core.config.run_config import RunConfig
from dfm_core.config.settings import TrainingSettings
from dfm_core.devices import resolve_device
from dfm_core.errors import DeviceError
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageScheduleFacts
from dfm_core.interfaces.timestep_sampler import TimestepSampler, TimestepSamplerFacts
from dfm_core.network_facts import expected, meta_batch
from dfm_core.plugins.kinds import RUN_KINDS
from dfm_core.schedule_coverage import check_schedule
from dfm_core.stages import StageLayout, format_size
from dfm_core.step_memory import measure_step
from dfm_core.training.distributed import World
from dfm_core.training.execution import autocast_dtype

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
    micro-batch in the run's precision and checkpointing, attention in fused kernels; with checkpointing also what one
    block computes again), stage_bytes (data, noise, noisy inputs, velocities and so on of one micro-batch).
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
    batches = [meta_batch(backbone, layout, kind.rows, bool(data.classes), kind.shares) for kind in kinds]
    dtype = planned_dtype(config)
    measured = [measure_step(copy.deepcopy(backbone), batch, training.checkpointing, dtype) for batch in batches]
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


def planned_dtype(config: RunConfig) -> torch.dtype | None:
    """Dtype of autocast on the run's device; a device that this machine lacks is taken for one that has bfloat16."""
    precision = config.training.precision
    try:
        return autocast_dtype(precision, resolve_device(config.device))
    except DeviceError:
        on_cuda = precision == "auto" and config.device.startswith("cuda")
        return torch.bfloat16 if on_cuda or precision == "bfloat16" else None


def plan_of_each(plan: TrainingPlan, training: TrainingSettings, processes: int) -> TrainingPlan:
    """The plan with the memory of each of several processes: with fsdp its part of the state, without all of it.

    Of activations and stages each holds those of its own micro-batch. FSDP gathers a block's weights on top. Raises
    WorldError for a batch that the processes cannot share evenly.
    """
    start, stop = World(0, processes).part(training.batch_size)
    whole, own = (-(-size // training.accumulation) for size in (training.batch_size, stop - start))
    parts = processes if training.parallel == "fsdp" else 1
    return replace(
        plan,
        state_bytes=-(-plan.state_bytes // parts),
        activation_bytes=plan.activation_bytes * own // whole,
        stage_bytes=plan.stage_bytes * own // whole,
    )


def plan_generation(assembler: Assembler, layout: StageLayout) -> tuple[ScheduleGrid, TimestepSampler]:
    """Make schedule and sampler as for stages of root mean square 1, and see that training covers what is visited."""
    sigmas = (1.0,) * len(layout)
    grid: ScheduleGrid = assembler.make("stage_schedule", StageScheduleFacts(len(layout), sigmas)).grid()
    sampler: TimestepSampler = assembler.make("timestep_sampler", TimestepSamplerFacts(len(layout), grid))
    check_schedule(assembler.config, assembler.registry, grid, sampler, sigmas)
    return grid, sampler
