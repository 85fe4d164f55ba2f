"""Straight lines from noise to data, stage by stage: the path of flow matching and of the paper."""

from __future__ import annotations

from dfm_core.flow import StraightPath


class Straight(StraightPath):
    """X_t = t·X_1 + (1 − t)·X_0 with v = X_1 − X_0 in every stage. Paper eq. 3; Lipman et al. 2023, Liu et al. 2023."""
