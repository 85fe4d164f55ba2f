"""The samples of a batch, each sent the way of its finest visible stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dfm_core.interfaces.backbone import Conditioning
from dfm_core.stages import Stages, finest_visible, pick, rows_where

Way = Callable[[int, Stages, Tensor, Tensor, Conditioning], Stages]
"""(index of the finest visible stage, the stages up to it, their t and visibility, conditioning) -> velocities."""


def run_by_finest_stage(
    way: Way, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning
) -> Stages:
    """Return the velocities that `way` gives to the samples of each finest stage, zero beyond that stage.

    Arguments and shapes are those of a backbone's forward. In training every way is run, if need be without samples,
    and none takes the place of another's result: processes that share the weights must have gradients of the same ones.
    """
    device = noisy_stages[0].device
    velocities = [torch.zeros_like(stage) for stage in noisy_stages]
    finest = finest_visible(visible)
    for index in range(len(noisy_stages)):
        rows = rows_where(finest == index, device)
        if not len(rows) and not torch.is_grad_enabled():
            continue
        seen = slice(index + 1)
        time, shown = pick((t[:, seen], visible[:, seen].to(device)), rows)
        parts = way(index, pick(noisy_stages[seen], rows), time, shown, conditioning.at(rows))
        for stage, part in enumerate(parts):
            velocities[stage] = velocities[stage].index_copy(0, rows, part)
    return tuple(velocities)
