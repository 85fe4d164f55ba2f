"""What is measured: the model of a configuration with its data and its training step, on one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dfm_core.assembly import Assembler
from dfm_core.bench.machine import available_memory
from dfm_core.bench.step import TrainingStep
from dfm_core.composition import Composition, DataDescription
from dfm_core.devices import resolve_device
from dfm_core.interfaces.dataset import Dataset
from dfm_core.network_facts import training_flops
from dfm_core.objective import FlowObjective
from dfm_core.plan import TrainingPlan, plan_training
from dfm_core.runs.start import describe_data
from dfm_core.stage_space import StageStatistics
from dfm_core.training.activations import recompute_activations
from dfm_core.training.execution import autocast_dtype
from dfm_core.training.utilisation import matmul_rate

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.plugins.registry import Registry


@dataclass(frozen=True)
class Subject:
    """free_memory: before the model was made; None: not known. sample_flops: of forward and backward of one loaded
    sample."""

    config: RunConfig
    assembler: Assembler
    dataset: Dataset
    data: DataDescription
    composition: Composition
    step: TrainingStep
    device: torch.device
    dtype: torch.dtype | None
    free_memory: int | None
    sample_flops: int | None

    def plan(self, batch_size: int, accumulation: int = 1) -> TrainingPlan:
        """The plan of the same run with another batch size."""
        training = self.config.training.model_copy(update={"batch_size": batch_size, "accumulation": accumulation})
        config = self.config.model_copy(update={"training": training})
        return plan_training(Assembler(config, self.assembler.registry), self.data)

    def utilisation(self, samples_per_second: float, dtype: torch.dtype | None) -> float | None:
        """Share of the rate of large matrix products, measured in this process; None if FLOPs cannot be counted."""
        if self.sample_flops is None:
            return None
        return self.sample_flops * samples_per_second / matmul_rate(self.device, dtype or torch.float32)

    def new_step(self, objective: FlowObjective) -> TrainingStep:
        """Training of another model under the same settings."""
        return make_step(objective, self.config, self.device)


def make_subject(config: RunConfig, registry: Registry) -> Subject:
    """Read the data set's description and make the model, its statistics 1: speed does not depend on them."""
    device = resolve_device(config.device)
    free = available_memory(device)
    assembler = Assembler(config, registry)
    dataset = assembler.dataset()
    data = describe_data(dataset)
    ones = (1.0,) * len(config.stages)
    composition = assembler.compose(data, StageStatistics(ones, ones, 1), device)
    return Subject(
        config=config,
        assembler=assembler,
        dataset=dataset,
        data=data,
        composition=composition,
        step=make_step(composition.objective(), config, device),
        device=device,
        dtype=autocast_dtype(config.training.precision, device),
        free_memory=free,
        sample_flops=count_flops(composition),
    )


def make_step(objective: FlowObjective, config: RunConfig, device: torch.device) -> TrainingStep:
    """Training steps with the configuration's settings, its activation checkpointing among them."""
    recompute_activations(objective.model.backbone.shardable_blocks(), config.training.checkpointing)
    return TrainingStep(objective, config.training, config.seed, device)


def count_flops(composition: Composition) -> int | None:
    """FLOPs of forward and backward of one sample; None where a network of somebody else's cannot be counted."""
    backbone = composition.model.backbone
    try:
        shares, size = composition.timestep_sampler.visible_probabilities(), composition.config.training.batch_size
        labelled, kept = bool(composition.data.classes), composition.batch_shares
        return training_flops(backbone, composition.layout, size, labelled, shares, kept) // size
    except Exception:
        return None
