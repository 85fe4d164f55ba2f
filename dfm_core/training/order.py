"""The order of an epoch: every sample once, a function of (seed, epoch), never held whole where there are shards."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from dfm_core.errors import DataError
from dfm_core.interfaces.dataset import Dataset
from dfm_core.randomness import derive_generator


class EpochOrder:
    """The samples of an epoch in an order drawn from (seed, epoch).

    Without shards it is one permutation of all samples. With shards an epoch is as many parts as there are shards,
    which stand in an order of the epoch's own. The samples of the shard at place r, permuted, are dealt to the parts
    r, r+1, …, r+window−1 (after the last comes the first), and those of a part are permuted again. So a part needs
    `window` shards, and the next one only one more.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        lengths = dataset.shard_lengths()
        if lengths is not None and sum(lengths) != len(dataset):
            raise DataError(f"shard_lengths: expected {len(dataset)} samples in all, got {sum(lengths)}")
        self._seed = seed
        self._sharded = lengths is not None
        self._lengths = torch.tensor((len(dataset),) if lengths is None else lengths, dtype=torch.int64)
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._window = min(max(1, dataset.shuffle_window), len(self._lengths))
        self._row = lru_cache(maxsize=2)(self._draw_row)
        self._part = lru_cache(maxsize=4)(self._draw_part)
        self._within = lru_cache(maxsize=2 * self._window)(self._draw_within)

    def indices(self, epoch: int, start: int, stop: int) -> list[int]:
        """Return the samples at places start…stop−1 of an epoch; fewer where the epoch ends before."""
        _, ends = self._row(epoch)
        part = int(torch.searchsorted(ends, start, right=True))
        found: list[int] = []
        while start < stop and part < len(ends):
            samples = self._part(epoch, part)
            first = start - (int(ends[part]) - len(samples))
            found += samples[first : first + stop - start].tolist()
            start = min(stop, int(ends[part]))
            part += 1
        return found

    def _draw_row(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the shards in the epoch's order, and where each part ends."""
        if not self._sharded:
            return torch.zeros(1, dtype=torch.int64), self._lengths
        row = torch.randperm(len(self._lengths), generator=derive_generator(self._seed, "shards", epoch))
        lengths = self._lengths[row]
        sizes = torch.zeros_like(lengths)
        for share in range(self._window):
            first, last = lengths * share // self._window, lengths * (share + 1) // self._window
            sizes += (last - first).roll(share)
        return row, sizes.cumsum(0)

    def _draw_part(self, epoch: int, part: int) -> Tensor:
        if not self._sharded:
            return torch.randperm(int(self._lengths), generator=derive_generator(self._seed, "order", epoch))
        row, _ = self._row(epoch)
        samples = torch.cat([self._share(epoch, int(row[part - share]), share) for share in range(self._window)])
        return samples[torch.randperm(len(samples), generator=derive_generator(self._seed, "part", epoch, part))]

    def _share(self, epoch: int, shard: int, share: int) -> Tensor:
        length = int(self._lengths[shard])
        return self._within(epoch, shard)[length * share // self._window : length * (share + 1) // self._window]

    def _draw_within(self, epoch: int, shard: int) -> Tensor:
        generator = derive_generator(self._seed, "shard", epoch, shard)
        return self._starts[shard] + torch.randperm(int(self._lengths[shard]), generator=generator)
