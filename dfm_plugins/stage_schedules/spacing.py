"""The spacing of a stage's timesteps: t = g_k(p) for its own progress p in [0, 1] and shift k."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dfm_core.errors import ConfigError
from dfm_core.interfaces.stage_schedule import StageScheduleFacts

SMALLEST_AUTO_SHIFT = 0.05

Shift = Literal["auto", "linear"] | float | tuple[float, ...]


def stages(num_stages: int) -> str:
    """Return "1 stage", "2 stages", …, for messages."""
    return f"{num_stages} stage{'s' * (num_stages != 1)}"


def resolve_shifts(shift: Shift, facts: StageScheduleFacts) -> tuple[float, ...]:
    """Return one shift a stage.

    "auto" is the stage's root mean square, clipped to [0.05, 1]; "linear" is 1; a number is for all stages. Raises
    ConfigError for a list of another length than the number of stages.
    """
    if shift == "auto":
        return tuple(min(max(sigma, SMALLEST_AUTO_SHIFT), 1.0) for sigma in facts.stage_sigmas)
    if isinstance(shift, tuple):
        if len(shift) != facts.num_stages:
            raise ConfigError(
                f"stage_schedule.options.shift: expected {facts.num_stages} for {stages(facts.num_stages)} (one for "
                f"each, or one number for all), got {len(shift)}: {list(shift)}"
            )
        return shift
    return (1.0 if shift == "linear" else float(shift),) * facts.num_stages


def spaced(progress: NDArray[np.float64], shift: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """t = g_k(p) = p / (p + k(1−p)): the identity at k = 1, steps finer near t = 1 below. shift: one, or one a column.

    Exact at p = 0 and p = 1.
    """
    return progress / (progress + shift * (1 - progress))


def progress_at(t: float, shift: float) -> float:
    """p = g_k⁻¹(t) = kt / (1 − t + kt)."""
    return shift * t / (1 - t + shift * t)
