"""One training step as the trainer makes it, whole or with the time of its parts."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dfm_core.config.settings import TrainingSettings
from dfm_core.objective import FlowObjective
from dfm_core.randomness import BatchRandomness
from dfm_core.stage_space import StageSpace
from dfm_core.stages import Stages
from dfm_core.training import execution
from dfm_core.training.ema import ExponentialMovingAverage
from dfm_core.training.learner import micro_batches
from dfm_core.training.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_learning_rate,
    trainable_parameters,
)
from dfm_core.training.utilisation import synchronize

PARTS = ("data", "decomposition", "forward", "backward", "optimiser", "EMA")
"""What a step is made of. The autoencoder belongs to the decomposition, noise and loss to the forward pass."""

Lap = Callable[[str], None]


class Stopwatch:
    """Add up the seconds of named parts; waits for the device at the end of each."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._device = device
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the time since the last lap to `part`."""
        synchronize(self._device)
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now


class TrainingStep:
    """Steps of one model in one process, on `device`; each call changes its weights as a step of training does.

    Where a step fails, its gradients are dropped, so that another can follow.
    """

    def __init__(self, objective: FlowObjective, settings: TrainingSettings, seed: int, device: torch.device) -> None:
        """objective: its model lies on `device`. settings: compile, parallel and precision are not read."""
        self._objective, self._settings, self._seed, self._device = objective, settings, seed, device
        self.module = objective.model.backbone
        self._parameters = list(trainable_parameters(self.module).values())
        self._optimizer = build_optimizer(self._parameters, settings)
        self._ema = ExponentialMovingAverage(self.module, settings.ema_decay)
        self._count = 0
        self.module.train()

    def __call__(
        self, batch: Mapping[str, Tensor], dtype: torch.dtype | None, accumulation: int = 1, lap: Lap | None = None
    ) -> None:
        """Make one step on a batch, in `accumulation` parts. dtype: of autocast, None for none. lap: told of the parts.

        Returns when the device has done it.
        """
        lap = lap or _ignore
        try:
            self._gradients(batch, dtype, accumulation, lap)
            clip_gradients(self._parameters, self._settings.clip_norm)
            set_learning_rate(self._optimizer, learning_rate(self._settings, self._count))
            self._optimizer.step()
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        lap("optimiser")
        self._ema.update(self._count)
        lap("EMA")
        self._count += 1
        synchronize(self._device)

    def _gradients(self, batch: Mapping[str, Tensor], dtype: torch.dtype | None, accumulation: int, lap: Lap) -> None:
        total = len(next(iter(batch.values())))
        objective = copy.copy(self._objective)
        objective.space = _TimedSpace(self._objective.space, lap)
        for start, stop in micro_batches(total, accumulation):
            part = execution.to_device({key: value[start:stop] for key, value in batch.items()}, self._device)
            lap("data")
            with execution.autocast(self._device, dtype):
                loss = objective(part, BatchRandomness(self._seed, self._count, start, stop, total)).loss
            if stop - start != total:
                loss = loss * ((stop - start) / total)
            lap("forward")
            loss.backward()
            lap("backward")


class _TimedSpace(StageSpace):
    """A space that tells when a batch is split."""

    def __init__(self, space: StageSpace, lap: Lap) -> None:
        super().__init__(space.autoencoder, space.decomposition, space.scales)
        self._lap = lap

    def batch_to_stages(self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Stages:
        stages = super().batch_to_stages(batch, generator)
        self._lap("decomposition")
        return stages


def _ignore(part: str) -> None:
    """Take no time."""


def of_size(batch: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """The batch cut or repeated to `size` samples."""
    return {key: value[torch.arange(size, device=value.device) % len(value)] for key, value in batch.items()}
