"""Exponential moving average of the weights, in float32 whatever the module's dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dfm_core.training.optimizer import trainable_parameters
from dfm_core.training.parallel import sharded_like


def ema_decay(largest: float, step: int) -> float:
    """Decay of update number `step` (from 0): min(largest, (1 + n) / (10 + n)), so that early averages are short."""
    return min(largest, (1 + step) / (10 + step))


class ExponentialMovingAverage:
    """Averages of a module's trainable parameters; frozen parameters and buffers are the module's own.

    Float32, because in bfloat16 an average with a decay of 0.9999 never moves.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """module: on its final device. decay: largest decay, in [0, 1)."""
        self._module = module
        self._decay = decay
        self._parameters = list(trainable_parameters(module).values())
        self._averages = [parameter.detach().float().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights; `step` counts the updates before this one."""
        weights = [parameter.detach().float() for parameter in self._parameters]  # float() copies nothing from float32
        torch._foreach_lerp_(self._averages, weights, 1 - ema_decay(self._decay, step))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Hold the averages in the module inside the `with`; afterwards its own weights are back, bit for bit."""
        weights = [parameter.detach().clone() for parameter in self._parameters]
        _copy(self._averages, self._parameters)
        try:
            yield
        finally:
            _copy(weights, self._parameters)

    def state_dict(self) -> dict[str, Tensor]:
        """Return a complete state dict of the module in which the averages stand for the trainable parameters."""
        averages = {id(parameter): average for parameter, average in zip(self._parameters, self._averages, strict=True)}
        state = self._module.state_dict(keep_vars=True)
        return {key: averages.get(id(value), value.detach()) for key, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the averages from what `state_dict` returned. Raises KeyError for a missing parameter."""
        saved = [state[name] for name in trainable_parameters(self._module)]
        _copy([sharded_like(full, own) for full, own in zip(saved, self._averages, strict=True)], self._averages)


@torch.no_grad()
def _copy(sources: list[Tensor], targets: list[Tensor] | list[nn.Parameter]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
