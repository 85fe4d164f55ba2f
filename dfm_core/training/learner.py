"""One optimiser step, and everything that it changes: weights, averaged weights, optimiser state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from dfm_core.config.settings import TrainingSettings
from dfm_core.errors import CheckpointError
from dfm_core.loss_report import LossReport
from dfm_core.randomness import BatchRandomness, derive_seed
from dfm_core.training import execution
from dfm_core.training.checkpoint import Checkpoint
from dfm_core.training.ema import ExponentialMovingAverage
from dfm_core.training.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    trainable_parameters,
)

Batch = Mapping[str, Tensor]
Objective = Callable[[dict[str, Tensor], BatchRandomness], LossReport]


class Learner:
    """A module with its optimiser and averages; a step is a pure function of these, the seed and the batch."""

    def __init__(
        self, module: nn.Module, objective: Objective, settings: TrainingSettings, device: torch.device, seed: int
    ) -> None:
        """Move `module` to `device`; compile it in place where the settings say so (its state dict keeps its keys)."""
        self._module, self._objective = module.to(device), objective
        self._settings, self._device, self._seed = settings, device, seed
        named = trainable_parameters(module)
        self._names, self._parameters = list(named), list(named.values())
        self._optimizer = build_optimizer(self._parameters, settings)
        self._ema = ExponentialMovingAverage(module, settings.ema_decay)
        self._dtype = execution.autocast_dtype(settings.precision, device)
        if settings.compile:
            module.compile()

    def step(self, index: int, batch: Batch) -> tuple[LossReport, Tensor]:
        """Go from `index` to `index` + 1 finished steps; return the loss and the gradient norm, on the device."""
        execution.seed_random_state(self._device, derive_seed(self._seed, "network", index))
        report = self._accumulate(index, batch)
        norm = clip_gradients(self._parameters, self._settings.clip_norm)
        set_learning_rate(self._optimizer, learning_rate(self._settings, index))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._ema.update(index)
        return report, norm

    def _accumulate(self, index: int, batch: Batch) -> LossReport:
        """Leave the gradient of the whole batch in the parameters; return its loss without the graph."""
        total = len(next(iter(batch.values())))
        reports = []
        for start, stop in micro_batches(total, self._settings.accumulation):
            part = execution.to_device({key: value[start:stop] for key, value in batch.items()}, self._device)
            with execution.autocast(self._device, self._dtype):
                report = self._objective(part, BatchRandomness(self._seed, index, start, stop, total))
            # Weighted by size: the loss is a mean, and the parts may differ by one sample.
            loss = report.loss if stop - start == total else report.loss * ((stop - start) / total)
            loss.backward()
            reports.append(LossReport(loss.detach(), report.parts, report.part_names))
        if len(reports) == 1:
            return reports[0]
        losses, parts = torch.stack([r.loss for r in reports]), torch.stack([r.parts for r in reports])
        return LossReport(losses.sum(), parts.sum(0), reports[0].part_names)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside: averaged weights, eval mode, no graph, the precision of training, nothing compiled."""
        eager = execution.eager_if(self._settings.compile)
        with self._ema.applied(), eager, torch.no_grad(), execution.autocast(self._device, self._dtype):
            self._module.eval()
            try:
                yield
            finally:
                self._module.train()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All state, by the name of its file in a checkpoint."""
        return {
            "weights": self._module.state_dict(),
            "ema": self._ema.state_dict(),
            "optimizer": optimizer_tensors(self._optimizer, self._names),
        }

    def load(self, start: Checkpoint) -> None:
        """Put the state of a checkpoint back. Raises CheckpointError if it is another model's."""
        try:
            self._module.load_state_dict(start.tensors("weights"))
            self._ema.load_state_dict(start.tensors("ema"))
            load_optimizer_tensors(self._optimizer, self._names, start.tensors("optimizer"))
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(f"{start.path} is of another model: {error}; use the config of its run") from error


def micro_batches(total: int, number: int) -> list[tuple[int, int]]:
    """Split `total` samples into at most `number` ranges (start, stop) whose sizes differ by at most one."""
    bounds = [total * i // number for i in range(number + 1)]
    return [(start, stop) for start, stop in pairwise(bounds) if start < stop]
