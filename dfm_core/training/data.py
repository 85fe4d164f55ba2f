"""Batches whose content is a function of the step: nothing to save, the same bits with any number of workers."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from dfm_core.errors import DataError, DFMError, ShortSampleError, UnreadableSampleError
from dfm_core.interfaces.dataset import Dataset
from dfm_core.training.order import BatchOrder, Element, section_of
from dfm_core.training.worker_processes import ignore_interrupts, starting_processes

Batch = dict[str, Tensor]
"""{"image": (B, C, H, W) or "video": (B, C, T, H, W), float32 in [-1, 1], "label": (B,) int64 (absent on unlabelled
data)}."""

_LOGGER = logging.getLogger("dfm")
_TOLERATED_SHARE = 0.1
_JUDGED_FROM = 200
_MOST_SHORT = 1000
"""So many samples in a row that are too short are taken for all of them."""
SKIPPED, SKIPPED_SHORT = "skipped: ", "skipped as too short: "
"""What warnings of damaged samples, and of sound ones that are too short, begin with."""


class Failure(NamedTuple):
    """A sample that cannot be used. message: names it. damaged: False where it is sound and too short."""

    sample: int
    message: str
    damaged: bool = True


def failure_of(index: int, error: UnreadableSampleError) -> Failure:
    """What is noted of an error of a sample."""
    return Failure(index, str(error), not isinstance(error, ShortSampleError))


class UnreadableSamples:
    """What could not be read: warns once a sample, and raises DataError when more than a tenth of the data is damaged.

    The share is that of the distinct samples seen so far, judged when at least 200, or all, have been seen. Samples
    that are too short are as named, and no error unless nothing else is left. counts: message (which names the file) ->
    how often it came up.
    """

    def __init__(self, total: int, warn: Callable[[str], None] | None = None) -> None:
        self.counts: dict[str, int] = {}
        self._total = total
        self._seen: set[int] = set()
        self._damaged: set[int] = set()
        self._short: set[int] = set()
        self._warn = _LOGGER.warning if warn is None else warn

    def add(self, seen: Sequence[int], failures: Sequence[Failure]) -> None:
        """Note the samples `seen`, and among them the `failures`."""
        self._seen.update(seen)
        for index, message, damaged in failures:
            if index not in self._damaged | self._short:
                (self._damaged if damaged else self._short).add(index)
                self._warn(f"{SKIPPED if damaged else SKIPPED_SHORT}{message}")
            self.counts[message] = self.counts.get(message, 0) + 1
        enough = len(self._seen) >= min(_JUDGED_FROM, self._total)
        if enough and len(self._damaged) > _TOLERATED_SHARE * len(self._seen):
            raise self.error()
        if len(self._damaged) + len(self._short) == self._total:
            raise self.error()

    def checked(self, loaded: _Loaded) -> Batch:
        """Return the batch that was loaded, after noting what was unreadable. Raises DataError."""
        self.add(loaded.seen, loaded.failures)
        if loaded.error is not None:
            raise loaded.error
        if loaded.content is None:
            raise self.error()
        batch: Batch = loaded.content
        return batch

    def error(self) -> DataError:
        """Return the error that says how many samples are damaged, or too short, and names the first."""
        named = "; ".join(list(self.counts)[:3]) + ("; …" if len(self.counts) > 3 else "")
        seen = f"of the {len(self._seen)} samples seen so far"
        if len(self._damaged) <= _TOLERATED_SHARE * len(self._seen):
            return DataError(
                f"{len(self._short)} {seen} are too short, expected some that are long enough; ask for fewer frames, "
                f"or take longer clips: {named}"
            )
        short = f", {len(self._short)} more are too short" if self._short else ""
        return DataError(
            f"{len(self._damaged)} {seen} are unreadable, expected at most a tenth{short}; repair or remove them: "
            f"{named}"
        )


class BatchStream:
    """Endless shuffled batches of a data set.

    Step n, counted from 0, holds the elements n·B … n·B + B − 1 of the endless row of epochs, each in an order of its
    own drawn from (seed, epoch); so a run that has done k steps goes on with `batches(k)`, and a data set smaller than
    a batch repeats within it. With sections every batch is of one of them (see `BatchOrder`). An unreadable sample is
    replaced by the next readable one (index + 1, and so on, within its section).
    Raises DataError where the data is empty, or more than a tenth of it unreadable.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        *,
        part: tuple[int, int] | None = None,
        workers: int = 0,
        pin_memory: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare a stream.

        part: range (start, stop) of each batch that is loaded here; None: all of it. workers: processes that load,
        started by spawning (the data set must be picklable); 0 loads in this one. pin_memory: for a CUDA device. warn:
        called once for every unreadable sample; default: logger "dfm".
        """
        if len(dataset) == 0:
            raise DataError(f"expected at least one sample, the {dataset.facts.split} split of the data set has none")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self._order = BatchOrder(dataset, batch_size, seed)
        self._part = slice(*part) if part else slice(None)
        self._workers = workers
        self._pin_memory = pin_memory
        self._unreadable = UnreadableSamples(len(dataset), warn)

    @property
    def unreadable(self) -> dict[str, int]:
        """Message naming an unreadable sample -> how often it came up so far."""
        return self._unreadable.counts

    def elements(self, step: int) -> list[Element]:
        """Return the (index, epoch) of the B samples of step `step`, counted from 0."""
        return self._order.elements(step)

    def batches(self, start_step: int = 0, stop_step: int | None = None) -> Iterator[Batch]:
        """Yield the batches, or this process's part, of steps start_step, …, stop_step − 1 (None: for ever)."""
        steps = itertools.count(start_step) if stop_step is None else range(start_step, stop_step)
        parts = (self.elements(step)[self._part] for step in steps)
        with closing(load_in_order(_Items(self.dataset), parts, _collate, self._workers, self._pin_memory)) as stream:
            for loaded in stream:
                yield self._unreadable.checked(loaded)


def load_in_order(
    items: TorchDataset[Any],
    batches: Iterable[list[Any]],
    collate: Callable[[list[Any]], Any],
    workers: int,
    pin_memory: bool = False,
) -> Generator[Any, None, None]:
    """Yield collate([items[element], …]) of each batch of elements, in their order.

    workers: processes that load ahead. Raises DataError where one of them dies.
    """
    loader = DataLoader(
        items,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=ignore_interrupts if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),  # else it draws from torch's global state
    )
    with starting_processes():
        loaded = iter(loader)
    try:
        yield from loaded
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise DataError(
            f"a process that loads data died ({error}); if memory or /dev/shm is short, use fewer workers"
        ) from error
    finally:
        # Workers end with the iterator: now, not when somebody lets go of a traceback that holds this frame.
        del loaded


def load_batch(
    dataset: Dataset, indices: Sequence[int], epoch: int = 0, unreadable: UnreadableSamples | None = None
) -> Batch:
    """Load samples by index in this process, for statistics and validation; unreadable ones are replaced by the next.

    unreadable: where to note those; default: warn and forget. Raises DataError where more than a tenth is damaged.
    """
    loaded = _collate([_load(dataset, index, epoch) for index in indices])
    return (unreadable or UnreadableSamples(len(dataset))).checked(loaded)


class _Loaded(NamedTuple):
    """Samples or why there are none: what goes from a worker to the main process. content: a sample, or a batch."""

    content: Any
    seen: list[int]
    failures: list[Failure]
    error: DFMError | None


class _Items(TorchDataset[_Loaded]):
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, element: Element) -> _Loaded:
        return _load(self.dataset, *element)


def _load(dataset: Dataset, index: int, epoch: int) -> _Loaded:
    """Load a sample or the next readable one; errors are returned, since a worker would bury their message."""
    seen: list[int] = []
    failures: list[Failure] = []
    section = section_of(dataset, index)
    # More damaged ones in a row than this are more than a tenth of all the data.
    while sum(failure.damaged for failure in failures) <= _TOLERATED_SHARE * len(dataset):
        if failures and len(failures) >= min(_MOST_SHORT, len(section)):
            break
        seen.append(index)
        try:
            return _Loaded(dataset.load(index, epoch), seen, failures, None)
        except UnreadableSampleError as error:
            failures.append(failure_of(index, error))
        except DFMError as error:
            return _Loaded(None, seen, failures, error)
        index = section[(index + 1 - section.start) % len(section)]
    return _Loaded(None, seen, failures, None)


def _collate(items: list[_Loaded]) -> _Loaded:
    complete = all(item.content is not None for item in items)
    return _Loaded(
        default_collate([item.content for item in items]) if complete else None,
        [index for item in items for index in item.seen],
        [failure for item in items for failure in item.failures],
        next((item.error for item in items if item.error), None),
    )
