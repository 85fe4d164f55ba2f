"""The samples of a batch, each sent the way of its finest visible stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dfm_core.interfaces.backbone import Conditioning
from dfm_core.stages import Stages, by_finest_stage, pick, put

Way = Callable[[int, Stages, Tensor, Tensor, Conditioning], Stages]
"""(index of the finest visible stage, the stages up to it, their t and visibility, conditioning) -> velocities."""


def run_by_finest_stage(
    way: Way, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning
) -> Stages:
    """Return the velocities that `way` gives to the samples of each finest stage, zero beyond that stage.

    Arguments and shapes are those of a backbone's forward.
    """
    device = noisy_stages[0].device
    velocities = [torch.zeros_like(stage) for stage in noisy_stages]
    for index, rows in by_finest_stage(visible, device):
        seen = slice(index + 1)
        time, shown = pick((t[:, seen], visible[:, seen].to(device)), rows)
        parts = way(index, pick(noisy_stages[seen], rows), time, shown, conditioning.at(rows))
        for stage, part in enumerate(parts):
            velocities[stage] = put(velocities[stage], rows, part)
    return tuple(velocities)
