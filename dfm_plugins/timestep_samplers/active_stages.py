"""What the samplers share: probabilities over the number of active stages, and drawing from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dfm_core.errors import ConfigError
from dfm_core.interfaces.timestep_sampler import TimestepDraw


def resolve_probabilities(
    stage_probs: float | tuple[float, ...], count: int, what: str = "numbers of active stages"
) -> tuple[float, ...]:
    """Return `count` probabilities that add up to 1.

    A number is the first one, the rest being equal; with a count of 1 it is 1. Raises ConfigError for a list of
    another length or another sum.
    """
    if count == 1 and not isinstance(stage_probs, tuple):
        return (1.0,)
    if not isinstance(stage_probs, tuple):
        return (stage_probs, *((1 - stage_probs) / (count - 1),) * (count - 1))
    if len(stage_probs) != count:
        raise ConfigError(
            f"timestep_sampler.options.stage_probs: expected {count} probabilities (one for each of the "
            f"{what}, or one number for the first), got {len(stage_probs)}: {list(stage_probs)}"
        )
    total = math.fsum(stage_probs)
    if abs(total - 1) > 1e-6:
        raise ConfigError(
            f"timestep_sampler.options.stage_probs: expected probabilities that add up to 1, got {list(stage_probs)}, "
            f"which add up to {total:.6g}"
        )
    return tuple(p / total for p in stage_probs)


def resolve_per_stage(values: float | tuple[float, ...], num_stages: int, option: str) -> Tensor:
    """Return one value a stage, (S,) float32; a number is for all. Raises ConfigError for a wrong number of values."""
    if not isinstance(values, tuple):
        values = (values,) * num_stages
    if len(values) != num_stages:
        raise ConfigError(
            f"timestep_sampler.options.{option}: expected {num_stages} (one a stage, or a single one for "
            f"all), got {len(values)}: {list(values)}"
        )
    return torch.tensor(values, dtype=torch.float32)


def draw_index(probabilities: Sequence[float], batch_size: int, generator: torch.Generator) -> Tensor:
    """Draw (B,) int64 from `probabilities`, using B float64 uniforms, or none where there is a single possibility."""
    if len(probabilities) == 1:
        return torch.zeros(batch_size, dtype=torch.int64)
    edges = torch.tensor(list(itertools.accumulate(probabilities))[:-1], dtype=torch.float64)
    position = torch.rand(batch_size, generator=generator, dtype=torch.float64)
    return torch.bucketize(position, edges, right=True)


def prefix_probabilities(probabilities: Sequence[float]) -> dict[tuple[bool, ...], float]:
    """Probability of each set "the first k stages are visible", given that of k = 1…S; without the impossible ones."""
    num_stages = len(probabilities)
    sets = [tuple(stage < active for stage in range(num_stages)) for active in range(1, num_stages + 1)]
    return {visible: p for visible, p in zip(sets, probabilities, strict=True) if p > 0}


def prefix_draw(t: Tensor, current: Tensor) -> TimestepDraw:
    """Make a draw in which the stages up to `current` (B,) are visible and trained, and t (B, S) is 0 beyond."""
    active = torch.arange(t.shape[1]) <= current[:, None]
    return TimestepDraw(torch.where(active, t, 0.0), active, active)
