"""The order of samples: all once an epoch, mixed within a window of shards, found at any place, section by section."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfm_core.errors import DataError
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample, Section
from dfm_core.plugins import Options
from dfm_core.randomness import derive_generator
from dfm_core.training.data import BatchStream
from dfm_core.training.order import BatchOrder, Element, EpochOrder, section_of


class Shards(Dataset):
    """Samples that are never loaded, in shards of these lengths."""

    def __init__(self, lengths: tuple[int, ...] | None, window: int = 8, total: int | None = None) -> None:
        super().__init__(Options(), DatasetFacts((2, 2), "train", 0))
        self.lengths = lengths
        self.shuffle_window = window
        self.total = sum(lengths or ()) if total is None else total

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int:
        return self.total

    def load(self, index: int, epoch: int) -> Sample:
        return {"image": torch.full((3, 2, 2), float(index))}

    def shard_lengths(self) -> tuple[int, ...] | None:
        return self.lengths


def whole(dataset: Dataset, seed: int = 0, epoch: int = 0) -> list[int]:
    return EpochOrder(dataset, seed).indices(epoch, 0, len(dataset))


def shards_of(order: list[int], length: int) -> list[int]:
    return [index // length for index in order]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any),
    st.integers(1, 15),
    st.integers(0, 3),
    st.integers(1, 20),
)
def test_an_epoch_is_a_permutation_and_any_piece_of_it_is_found(
    lengths: list[int], window: int, epoch: int, piece: int
) -> None:
    dataset = Shards(tuple(lengths), window)
    order = whole(dataset, 1, epoch)
    assert sorted(order) == list(range(len(dataset)))
    pieces = EpochOrder(dataset, 1)
    starts = list(range(0, len(dataset), piece))[::-1]
    found = [pieces.indices(epoch, start, start + piece) for start in starts]
    assert [index for part in reversed(found) for index in part] == order


def test_without_shards_it_is_one_permutation_of_all() -> None:
    expected = torch.randperm(100, generator=derive_generator(7, "order", 3)).tolist()
    assert EpochOrder(Shards(None, total=100), 7).indices(3, 20, 60) == expected[20:60]


def test_epochs_and_seeds_have_their_own_order() -> None:
    dataset = Shards((10,) * 20, 4)
    orders = [whole(dataset), whole(dataset, epoch=1), whole(dataset, seed=1)]
    assert orders[0] == whole(dataset)
    assert len({tuple(order) for order in orders}) == 3
    rows = [list(dict.fromkeys(shards_of(order, 10))) for order in orders]
    assert len({tuple(row) for row in rows}) == 3, "the shards come in another order too"


@pytest.mark.parametrize("window", [1, 4, 8])
def test_few_shards_are_needed_at_a_time_and_one_more_as_it_goes_on(window: int) -> None:
    length, number = 64, 30
    shards = shards_of(whole(Shards((length,) * number, window)), length)
    for part in range(number):
        assert len(set(shards[part * length : (part + 1) * length])) == window
    kept: list[int] = []  # as a cache of window + 1 shards, least recently used first
    fetched = 0
    for shard in shards:
        fetched += shard not in kept
        kept = [*(other for other in kept if other != shard), shard][-(window + 1) :]
    assert fetched < number + window, "each shard is fetched once; those of the circle's end a second time"


def test_samples_are_mixed_within_the_window() -> None:
    length, window = 800, 8
    order = whole(Shards((length,) * 16, window))
    for start in range(0, len(order), length):
        counts = torch.bincount(torch.tensor(shards_of(order[start : start + length], length)), minlength=16)
        assert set(counts.tolist()) == {0, length // window}
        firsts = shards_of(order[start : start + 32], length)
        assert len(set(firsts)) > window // 2, "a batch sees most of them"
    within = [index % length for index in order[:length] if index // length == order[0] // length]
    assert within != sorted(within)


def test_every_sample_comes_at_every_time() -> None:
    dataset = Shards((8,) * 8, 4)
    places = [whole(dataset, epoch=epoch).index(5) for epoch in range(300)]
    quarters = torch.bincount(torch.tensor(places) // 16, minlength=4)
    assert quarters.min() > 45


def test_lengths_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(DataError, match="expected 11 samples in all, got 10"):
        EpochOrder(Shards((5, 5), total=11), 0)


def test_batches_hold_every_sample_once_an_epoch_over_resumes() -> None:
    dataset = Shards((7, 0, 5, 9, 1), 2)
    steps = [BatchStream(dataset, 4, seed=2).elements(step) for step in range(33)]  # a new stream: a resume at each
    assert [BatchStream(dataset, 4, seed=2).elements(step) for step in range(33)] == steps
    elements = [element for step in steps for element in step]
    for epoch in range(6):
        part = elements[epoch * 22 : (epoch + 1) * 22]
        assert sorted(part) == [(index, epoch) for index in range(22)]


class Sections(Shards):
    """Samples that are never loaded, in sections of these lengths."""

    def __init__(
        self, lengths: tuple[int, ...], total: int | None = None, shards: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(shards, total=sum(lengths) if total is None else total)
        self.section_lengths = lengths

    def sections(self) -> tuple[Section, ...]:
        return tuple(Section(length, (place + 1, 2, 2)) for place, length in enumerate(self.section_lengths))


def sections_of(dataset: Sections, elements: list[Element]) -> set[int]:
    ends = torch.tensor(dataset.section_lengths).cumsum(0)
    return set(torch.searchsorted(ends, torch.tensor([index for index, _ in elements]), right=True).tolist())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any), st.integers(1, 6), st.integers(0, 3))
def test_batches_are_of_one_section_and_every_section_is_gone_through(
    lengths: list[int], batch_size: int, seed: int
) -> None:
    dataset = Sections(tuple(lengths))
    order = BatchOrder(dataset, batch_size, seed)
    batches = [-(-length // batch_size) for length in lengths]
    steps = [order.elements(step) for step in range(4 * sum(batches))]
    found: dict[int, list[Element]] = {place: [] for place in range(len(lengths))}
    for number in range(4):
        round_ = steps[number * sum(batches) : (number + 1) * sum(batches)]
        for elements in round_:
            (place,) = sections_of(dataset, elements)
            found[place] += elements
        assert [len(found[place]) for place in found] == [batch_size * (number + 1) * count for count in batches]
    for place, elements in found.items():
        first, length = sum(lengths[:place]), lengths[place]
        for epoch in range(len(elements) // length if length else 0):
            part = elements[epoch * length : (epoch + 1) * length]
            assert sorted(part) == [(index, epoch) for index in range(first, first + length)]


def test_sections_take_turns_at_random_and_a_new_order_goes_on_where_one_ended() -> None:
    dataset = Sections((40, 80))
    order = BatchOrder(dataset, 4, 5)
    steps = [order.elements(step) for step in range(60)]
    assert [BatchOrder(dataset, 4, 5).elements(step) for step in range(60)][::-1] == steps[::-1]
    turns = [next(iter(sections_of(dataset, elements))) for elements in steps]
    assert [turns[:30].count(0), turns[30:].count(0)] == [10, 10]
    assert turns[:30] != turns[30:]
    assert turns[:30] != sorted(turns[:30])
    assert [BatchOrder(dataset, 4, 6).elements(step) for step in range(60)] != steps
    parts = [BatchStream(dataset, 4, 5, part=part) for part in ((0, 2), (2, 4))]
    assert all(stream.elements(step) == steps[step] for stream in parts for step in range(60))


def test_sections_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="sections: expected 11 samples in all, got 10"):
        BatchOrder(Sections((5, 5), total=11), 2, 0)
    with pytest.raises(DataError, match="with sections or with shards, got both"):
        BatchOrder(Sections((5, 5), shards=(5, 5)), 2, 0)


def test_neighbours_in_a_section_are_found() -> None:
    dataset = Sections((3, 0, 4))
    assert [section_of(dataset, index) for index in (0, 2, 3, 6)] == [range(3), range(3), range(3, 7), range(3, 7)]
    assert section_of(Shards((3, 4)), 5) == range(7)


def test_a_hundred_million_samples_are_quick_and_never_listed() -> None:
    dataset = Shards((10_000,) * 10_000, 8)
    start = time.process_time()
    stream = BatchStream(dataset, 256, seed=0)
    for step in (0, 1, 100_000, 390_624):
        assert len(stream.elements(step)) == 256
    assert time.process_time() - start < 2.0
