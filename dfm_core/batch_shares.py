"""How much of a batch is trained, by its visible stages: more samples where each costs less. Paper table 1e."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm_core.config.settings import FlowSettings
from dfm_core.errors import CompositionError
from dfm_core.interfaces.timestep_sampler import TimestepSampler
from dfm_core.stages import finest_visible

VisibleShares = Mapping[tuple[bool, ...], float]
"""Set of visible stages -> its share of the samples."""

ROUNDING = 1e-6
"""What a product may be above a whole number and still be that: 0.07 · 100 is 7.000000000000001."""


@dataclass(frozen=True)
class BatchKind:
    """One of the batches that training meets. probability: of it. rows: its size. shares: of its visible stages."""

    probability: float
    rows: int
    shares: VisibleShares


@dataclass(frozen=True)
class BatchShares:
    """What is kept of a batch: `shares[i]` of its rows where stage i (from 0) is the finest visible one; empty: all.

    A part of a batch (of a process, of an accumulation) keeps the same share of its own rows, rounded up to a whole
    number; so which rows of the batch are kept depends on how it is split, and how many does only by that rounding.
    """

    shares: tuple[float, ...] = ()

    @classmethod
    def of(cls, settings: FlowSettings) -> BatchShares:
        """Those of a run's settings."""
        return cls(settings.batch_shares or ())

    def check(self, sampler: TimestepSampler, name: str) -> None:
        """Raise CompositionError unless there is a share for each stage, and one set of stages for a whole batch.

        name: of the sampler, for the message.
        """
        if not self.shares:
            return
        num_stages = sampler.facts.num_stages
        if len(self.shares) != num_stages:
            raise CompositionError(
                f"flow.batch_shares: expected {num_stages} shares, one for each number of visible stages, got "
                f"{len(self.shares)}: {list(self.shares)}"
            )
        if not sampler.one_set_a_batch:
            raise CompositionError(
                f"flow.batch_shares={list(self.shares)} needs the same visible stages in all samples of a batch, and "
                f"the timestep sampler {name!r} draws them for each sample: set timestep_sampler.options.draw=batch "
                "where it has that option, else take a sampler that has, or leave flow.batch_shares out"
            )

    def rows(self, size: int, visible: Sequence[bool] | Tensor) -> int:
        """Number of rows that are kept of `size`, at least 1. visible: (S,) bool, of every sample of the batch."""
        if not self.shares:
            return size
        share = self.shares[int(finest_visible(torch.as_tensor(visible)[None]))]
        return max(1, math.ceil(share * size - ROUNDING))

    def kinds(self, size: int, probabilities: VisibleShares) -> list[BatchKind]:
        """The batches of `size` loaded samples that training meets.

        probabilities: of the sets of visible stages. Without shares there is one kind, with samples of all sets.
        """
        if not self.shares:
            return [BatchKind(1.0, size, probabilities)]
        sets = [(visible, p) for visible, p in probabilities.items() if p > 0]
        return [BatchKind(p, self.rows(size, visible), {visible: 1.0}) for visible, p in sets]


WHOLE = BatchShares()
"""Everything is kept."""
