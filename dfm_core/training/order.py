"""The order of samples: all once an epoch, a function of (seed, epoch), never held whole where there are shards."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dfm_core.errors import DataError
from dfm_core.interfaces.dataset import Dataset
from dfm_core.randomness import derive_generator, derive_seed

Element = tuple[int, int]
"""(index, epoch) of a sample, as `Dataset.load` takes it."""


class BatchOrder:
    """The samples of every step: batches of an endless row of epochs.

    Where a data set has sections, each has a row of its own, and so its own epochs; the steps go round by round, in one
    of which every section has as many batches as its samples fill (the last perhaps in part), in an order drawn from
    (seed, round).
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int) -> None:
        self._batch_size = batch_size
        self._seed = seed
        self._rows = _rows(dataset, seed)
        counts = [-(-row.length // batch_size) for row in self._rows]
        self._round = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self._counts = counts
        self._dealt = lru_cache(maxsize=2)(self._deal)

    def elements(self, step: int) -> list[Element]:
        """Return the (index, epoch) of the samples of step `step`, counted from 0."""
        row, batch = self._row_of(step)
        found: list[Element] = []
        while len(found) < self._batch_size:
            epoch, offset = divmod(batch * self._batch_size + len(found), row.length)
            indices = row.indices(epoch, offset, offset + self._batch_size - len(found))
            found += [(index, epoch) for index in indices]
        return found

    def _row_of(self, step: int) -> tuple[_Row, int]:
        """Return the row of a step, and which of its batches this is."""
        if len(self._rows) == 1:
            return self._rows[0], step
        number, place = divmod(step, len(self._round))
        dealt = self._dealt(number)
        row = int(dealt[place])
        return self._rows[row], number * self._counts[row] + int((dealt[:place] == row).sum())

    def _deal(self, number: int) -> Tensor:
        generator = derive_generator(self._seed, "sections", number)
        return self._round[torch.randperm(len(self._round), generator=generator)]


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


class _Row(NamedTuple):
    """Samples in an order of each epoch's own. indices: as `EpochOrder.indices`."""

    length: int
    indices: Callable[[int, int, int], list[int]]


def _rows(dataset: Dataset, seed: int) -> list[_Row]:
    """Return a row for each section that holds anything; one where there are no sections."""
    sections = dataset.sections()
    if sections is None:
        return [_Row(len(dataset), EpochOrder(dataset, seed).indices)]
    if dataset.shard_lengths() is not None:
        raise DataError("expected a data set with sections or with shards, got both")
    found, start = [], 0
    for number, section in enumerate(sections):
        if section.length:
            found.append(_Row(section.length, _shuffled(start, section.length, derive_seed(seed, "section", number))))
        start += section.length
    if start != len(dataset):
        raise DataError(f"sections: expected {len(dataset)} samples in all, got {start}")
    return found


def _shuffled(first: int, length: int, seed: int) -> Callable[[int, int, int], list[int]]:
    @lru_cache(maxsize=2)
    def drawn(epoch: int) -> Tensor:
        return first + torch.randperm(length, generator=derive_generator(seed, "order", epoch))

    return lambda epoch, start, stop: drawn(epoch)[start:stop].tolist()


def section_of(dataset: Dataset, index: int) -> range:
    """Return the indices of the section that holds `index`; all where there are no sections."""
    start = 0
    for section in dataset.sections() or ():
        if index < start + section.length:
            return range(start, start + section.length)
        start += section.length
    return range(len(dataset))
