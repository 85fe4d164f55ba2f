"""One optimiser step, and everything that it changes: weights, averaged weights, optimiser state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from dfm_core.config.settings import TrainingSettings
from dfm_core.errors import CheckpointError
from dfm_core.loss_report import LossReport
from dfm_core.randomness import BatchRandomness, derive_seed
from dfm_core.training import execution
from dfm_core.training.checkpoint import Checkpoint
from dfm_core.training.checkpoint_writer import Keep, in_own_memory
from dfm_core.training.distributed import World
from dfm_core.training.ema import ExponentialMovingAverage
from dfm_core.training.optimizer import (
    build_optimizer,
    clip_gradients,
    gradient_norm,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    trainable_parameters,
)
from dfm_core.training.parallel import gathered, sharded_like, share

Batch = Mapping[str, Tensor]
Objective = Callable[[dict[str, Tensor], BatchRandomness], LossReport]


class Learner:
    """A module with its optimiser and averages; a step is a pure function of these, the seed and the batch.

    With several processes a batch is this one's part of it, and all of them call every method.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        settings: TrainingSettings,
        device: torch.device,
        seed: int,
        world: World,
        blocks: Sequence[nn.Module] = (),
        parameter_groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Move `module` to `device`; compile and share it in place, as the settings say (its state keeps its keys).

        blocks: its repeated parts, see `share`. parameter_groups: names of parameters whose gradients `step` measures.
        """
        self._module, self._objective = module.to(device), objective
        self._settings, self._device, self._seed, self._world = settings, device, seed, world
        self._dtype = execution.autocast_dtype(settings.precision, device)
        self._sharing = share(module, blocks, settings, world, self._dtype)
        named = trainable_parameters(module)
        self._names, self._parameters = list(named), list(named.values())
        groups = (parameter_groups or {}).items()
        self._groups = {name: [named[own] for own in owned if own in named] for name, owned in groups}
        self._group_norms: dict[str, Tensor] = {}
        self._optimizer = build_optimizer(self._parameters, settings)
        self._ema = ExponentialMovingAverage(module, settings.ema_decay)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers that most of the arithmetic is done in."""
        return self._dtype or torch.float32

    def step(self, index: int, batch: Batch, measure: bool = False) -> tuple[LossReport, Tensor]:
        """Go from `index` to `index` + 1 finished steps; return the loss and the gradient norm, on the device.

        measure: keep the norms of the parameter groups too, see `read_group_norms`.
        """
        process = [self._world.index] if self._world.index else []  # each drops out what it likes
        execution.seed_random_state(self._device, derive_seed(self._seed, "network", index, *process))
        report = self._accumulate(index, batch)
        if measure:
            self._group_norms = {name: gradient_norm(group) for name, group in self._groups.items()}
        norm = clip_gradients(self._parameters, self._settings.clip_norm)
        set_learning_rate(self._optimizer, learning_rate(self._settings, index))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._ema.update(index)
        return report, norm

    def _accumulate(self, index: int, batch: Batch) -> LossReport:
        """Leave the gradient of the whole batch in the parameters; return this part's loss without the graph."""
        total = len(next(iter(batch.values())))
        offset, everywhere = self._world.index * total, self._world.size * total
        reports = []
        for start, stop in micro_batches(total, self._settings.accumulation):
            part = execution.to_device({key: value[start:stop] for key, value in batch.items()}, self._device)
            randomness = BatchRandomness(self._seed, index, offset + start, offset + stop, everywhere)
            with self._sharing.micro_batch(index, is_last=stop == total):
                with execution.autocast(self._device, self._dtype):
                    report = self._objective(part, randomness)
                self._sharing.after_forward(index)
                # Weighted by size: the loss is a mean, and the parts may differ by one sample.
                loss = report.loss if stop - start == total else report.loss * ((stop - start) / total)
                loss.backward()
            reports.append(dataclasses.replace(report, loss=loss.detach()))
        return sum_of(reports)

    def read_group_norms(self) -> dict[str, float]:
        """Gradient norm (before clipping) of each parameter group in the last step that measured them."""
        return {name: float(norm) for name, norm in self._group_norms.items()}

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
                self._sharing.settle()

    def check(self) -> None:
        """Raise WorldError if what the processes added up since the last check cannot be right."""
        self._sharing.check()

    def tensors(self, keep: Keep = in_own_memory) -> dict[str, dict[str, Tensor]]:
        """All state, by the name of its file in a checkpoint; empty groups in all processes but the first.

        keep(file, name, value): puts what had to be gathered where it can stay.
        """
        groups = {
            "weights": self._module.state_dict(),
            "ema": self._ema.state_dict(),
            "optimizer": optimizer_tensors(self._optimizer, self._names),
        }
        return {name: gathered(tensors, self._world, partial(keep, name)) for name, tensors in groups.items()}

    def load(self, start: Checkpoint) -> None:
        """Put the state of a checkpoint back. Raises CheckpointError if it is another model's."""
        own = self._module.state_dict()
        weights = start.tensors("weights")
        try:
            self._module.load_state_dict({k: sharded_like(v, own.get(k, v)) for k, v in weights.items()})
            self._ema.load_state_dict(start.tensors("ema"))
            load_optimizer_tensors(self._optimizer, self._names, start.tensors("optimizer"))
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(f"{start.path} is of another model: {error}; use the config of its run") from error


def sum_of(reports: Sequence[LossReport]) -> LossReport:
    """One report of several micro-batches, whose losses are weighted already."""
    if len(reports) == 1:
        return reports[0]
    loss, parts = torch.stack([r.loss for r in reports]).sum(), torch.stack([r.parts for r in reports]).sum(0)
    by_t = [r.parts_by_t for r in reports if r.parts_by_t is not None]
    return LossReport(loss, parts, reports[0].part_names, torch.stack(by_t).sum(0) if by_t else None)


def micro_batches(total: int, number: int) -> list[tuple[int, int]]:
    """Split `total` samples into at most `number` ranges (start, stop) whose sizes differ by at most one."""
    bounds = [total * i // number for i in range(number + 1)]
    return [(start, stop) for start, stop in pairwise(bounds) if start < stop]
