"""Kind `timestep sampler`: the timesteps of a training batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor

from dfm_core.interfaces.stage_schedule import ScheduleGrid


@dataclass(frozen=True)
class TimestepSamplerFacts:
    """What core computes for a sampler. num_stages: S. grid: the generation schedule, for samplers that follow it."""

    num_stages: int
    grid: ScheduleGrid


@dataclass(frozen=True)
class TimestepDraw:
    """Timesteps and masks of a batch, each (B, S).

    t: float32 in [0, 1]. visible: bool, the stage's noisy tensor reaches the network. trained: bool, the stage has a
    loss; trained implies visible. t is 0 where a stage is invisible.
    """

    t: Tensor
    visible: Tensor
    trained: Tensor


class TimestepSampler(ABC):
    """Draw timesteps for training.

    Laws: t in [0, 1], and 0 where a stage is invisible; every sample trains a stage, and only visible ones; the given
    generator decides everything; sets of visible stages are as frequent as `visible_probabilities` says. Options that
    do not fit the number of stages are refused in `__init__`, with ConfigError.
    """

    one_set_a_batch: bool = False
    """Whether all samples of a batch have the same visible stages, drawn once for it (`flow.batch_shares` needs it)."""

    def __init__(self, options: BaseModel, facts: TimestepSamplerFacts) -> None:
        self.options = options
        self.facts = facts

    @abstractmethod
    def sample(self, batch_size: int, generator: torch.Generator) -> TimestepDraw:
        """Draw (B, S) timesteps and masks for B = `batch_size` samples. generator: on the CPU, as is the result."""

    @abstractmethod
    def visible_probabilities(self) -> dict[tuple[bool, ...], float]:
        """Return the probability of each set of visible stages: keys of length S, values that sum to 1.

        Assembly refuses a schedule that visits a set which is never drawn in training.
        """

    def trained_before(self) -> frozenset[tuple[bool, ...]]:
        """Return sets of visible stages that are left to the training of the weights with which this one begins.

        A schedule may visit them although they are never drawn; the run then needs such weights (--init-from). Default:
        none.
        """
        return frozenset()
