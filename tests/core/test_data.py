"""Batches are a function of the step, whatever the workers; unreadable samples are replaced, named and limited."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from dfm_core.errors import DataError, ShortSampleError, UnreadableSampleError
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from dfm_core.plugins import Options
from dfm_core.training.data import BatchStream, Failure, UnreadableSamples, load_batch


class Numbers(Dataset):
    """`length` images that hold their own index and epoch; those in `broken` cannot be read."""

    def __init__(self, length: int, broken: frozenset[int] = frozenset(), labelled: bool = True) -> None:
        super().__init__(Options(), DatasetFacts((2, 2), "train", 0))
        self.length = length
        self.broken = broken
        self.labelled = labelled

    @property
    def classes(self) -> tuple[str, ...]:
        return ("even", "odd") if self.labelled else ()

    def __len__(self) -> int:
        return self.length

    def load(self, index: int, epoch: int) -> Sample:
        if index in self.broken:
            raise UnreadableSampleError(f"cannot read image {index}.png: cut off")
        image = torch.full((3, 2, 2), float(index))
        image[1] = epoch
        return {"image": image, "label": index % 2} if self.labelled else {"image": image}


class Clips(Numbers):
    """Those in `short` are too short."""

    def __init__(self, length: int, short: range, broken: frozenset[int] = frozenset()) -> None:
        super().__init__(length, broken)
        self.short = short

    def load(self, index: int, epoch: int) -> Sample:
        if index in self.short:
            raise ShortSampleError(f"cannot read clip {index}.mp4: it has 3 frames, expected at least 5")
        return super().load(index, epoch)


class Dying(Numbers):
    """Its process ends at once, as the kernel ends it when memory is short."""

    def load(self, index: int, epoch: int) -> Sample:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(index, epoch)


class Refusing(Numbers):
    """Raises an error that is the user's to solve."""

    def load(self, index: int, epoch: int) -> Sample:
        raise DataError("the archive is of version 2, expected 1")


def drawn(stream: BatchStream, steps: int, start: int = 0) -> list[tuple[int, int]]:
    return [
        (int(image[0, 0, 0]), int(image[1, 0, 0]))
        for batch in stream.batches(start, start + steps)
        for image in batch["image"]
    ]


def test_a_batch_has_images_and_labels() -> None:
    batch = next(BatchStream(Numbers(10), 4, seed=0).batches())
    assert batch["image"].shape == (4, 3, 2, 2)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].dtype == torch.int64
    assert torch.equal(batch["label"], batch["image"][:, 0, 0, 0].long() % 2)
    assert set(next(BatchStream(Numbers(10, labelled=False), 4, seed=0).batches())) == {"image"}


@pytest.mark.parametrize(("length", "batch_size"), [(12, 4), (10, 4), (3, 8), (1, 5), (7, 7)])
def test_every_epoch_holds_every_sample_once(length: int, batch_size: int) -> None:
    elements = drawn(BatchStream(Numbers(length), batch_size, seed=3), 3 * length)
    assert len(elements) == 3 * length * batch_size
    for epoch in range(2):
        part = elements[epoch * length : (epoch + 1) * length]
        assert sorted(part) == [(index, epoch) for index in range(length)]


def test_the_parts_of_processes_make_up_the_batches() -> None:
    whole = drawn(BatchStream(Numbers(10), 6, seed=3), 4)
    parts = [drawn(BatchStream(Numbers(10), 6, seed=3, part=part), 4) for part in ((0, 2), (2, 4), (4, 6))]
    together = [element for step in range(4) for part in parts for element in part[2 * step : 2 * step + 2]]
    assert together == whole


def test_epochs_and_seeds_have_their_own_order() -> None:
    stream = BatchStream(Numbers(50), 50, seed=0)
    orders = [[index for index, _ in stream.elements(step)] for step in range(2)]
    orders.append([index for index, _ in BatchStream(Numbers(50), 50, seed=1).elements(0)])
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
    assert all(order != sorted(order) for order in orders)


@pytest.mark.parametrize("start", [1, 4, 23])
def test_starting_later_gives_what_would_have_come(start: int) -> None:
    whole = drawn(BatchStream(Numbers(10), 4, seed=5), 30)
    assert drawn(BatchStream(Numbers(10), 4, seed=5), 30 - start, start) == whole[4 * start :]


def test_global_random_states_are_left_alone() -> None:
    before = torch.get_rng_state()
    drawn(BatchStream(Numbers(10), 4, seed=5), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_change_nothing_and_end_with_the_stream() -> None:
    numbers = Numbers(40, broken=frozenset({3, 17}))
    alone, shared = BatchStream(numbers, 4, seed=2), BatchStream(numbers, 4, seed=2, workers=2)
    before = dict(os.environ), torch.get_rng_state().tolist()
    batches = shared.batches(5)
    expected, got = list(alone.batches(5, 20)), list(islice(batches, 15))
    assert len(multiprocessing.active_children()) == 2
    batches.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []
    assert (dict(os.environ), torch.get_rng_state().tolist()) == before
    assert all(torch.equal(a[key], b[key]) for a, b in zip(expected, got, strict=True) for key in ("image", "label"))
    assert shared.unreadable == alone.unreadable
    assert len(alone.unreadable) == 2


def test_errors_of_workers_arrive_as_they_are() -> None:
    with pytest.raises(DataError, match=r"^the archive is of version 2, expected 1$"):
        next(BatchStream(Refusing(10), 4, seed=0, workers=1).batches())
    assert multiprocessing.active_children() == []
    with pytest.raises(DataError, match="process that loads data died"):
        next(BatchStream(Dying(10), 4, seed=0, workers=1).batches())


def test_an_unreadable_sample_is_replaced_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    stream = BatchStream(Numbers(40, broken=frozenset({8, 9, 39})), 40, seed=0)
    with caplog.at_level(logging.WARNING, logger="dfm"):
        counts = Counter(index for index, _ in drawn(stream, 2))
    assert counts == Counter(dict.fromkeys(set(range(40)) - {8, 9, 39}, 2)) + Counter({10: 4, 0: 2})
    assert sorted(record.message for record in caplog.records) == [
        f"skipped: cannot read image {index}.png: cut off" for index in (39, 8, 9)
    ]
    assert stream.unreadable["cannot read image 9.png: cut off"] == 4


def test_warnings_can_go_elsewhere() -> None:
    messages: list[str] = []
    drawn(BatchStream(Numbers(40, broken=frozenset({8})), 10, seed=0, warn=messages.append), 8)
    assert messages == ["skipped: cannot read image 8.png: cut off"]


@pytest.mark.parametrize(("broken", "fails"), [(4, False), (5, True)])
def test_more_than_a_tenth_is_an_error(broken: int, fails: bool) -> None:
    stream = BatchStream(Numbers(40, broken=frozenset(range(0, 8 * broken, 8))), 40, seed=0, warn=lambda _: None)
    if not fails:
        drawn(stream, 2)
        return
    with pytest.raises(DataError, match=r"5 of the 40 samples seen so far.*expected at most a tenth.*\.png"):
        drawn(stream, 1)


def test_few_samples_are_not_judged_and_few_in_all_are() -> None:
    counted = UnreadableSamples(1000, lambda _: None)
    counted.add(range(199), [Failure(index, str(index)) for index in range(21)])
    with pytest.raises(DataError, match="21 of the 200"):
        counted.add([199], [])
    small = UnreadableSamples(5, lambda _: None)
    small.add(range(4), [Failure(0, "a")])
    with pytest.raises(DataError, match="1 of the 5"):
        small.add([4], [])


def test_short_samples_are_named_and_no_sign_of_damage() -> None:
    messages: list[str] = []
    stream = BatchStream(Clips(40, range(30), frozenset({35})), 40, seed=0, warn=messages.append)
    assert {index for index, _ in drawn(stream, 1)} == {30, 31, 32, 33, 34, 36, 37, 38, 39}
    assert len(messages) == len(stream.unreadable) == 31
    assert "skipped as too short: cannot read clip 7.mp4: it has 3 frames, expected at least 5" in messages
    assert "skipped: cannot read image 35.png: cut off" in messages
    damaged = Clips(40, range(30), frozenset(range(35, 40)))
    with pytest.raises(DataError, match=r"5 of the 40 .* expected at most a tenth, 30 more are too short; repair"):
        drawn(BatchStream(damaged, 40, seed=0, warn=lambda _: None), 1)


@pytest.mark.parametrize("length", [1, 5, 300, 3000])
def test_data_of_short_samples_only_is_an_error(length: int) -> None:
    clips = Clips(length, range(length))
    with pytest.raises(DataError, match=r"are too short, expected some that .*; ask for fewer frames.*\.mp4: it has 3"):
        next(BatchStream(clips, 4, seed=0, warn=lambda _: None).batches())
    with pytest.raises(DataError, match="are too short"):
        load_batch(clips, [0, 0])


@pytest.mark.parametrize("length", [1, 5, 300])
def test_data_without_a_readable_sample_is_an_error(length: int) -> None:
    everything = Numbers(length, broken=frozenset(range(length)))
    with pytest.raises(DataError, match="unreadable"):
        next(BatchStream(everything, 4, seed=0, warn=lambda _: None).batches())
    with pytest.raises(DataError, match="unreadable"):
        load_batch(everything, [0, 0])


def test_empty_data_is_an_error() -> None:
    with pytest.raises(DataError, match="train split of the data set has none"):
        BatchStream(Numbers(0), 4, seed=0)


def test_loading_by_index_keeps_the_order_and_replaces(caplog: pytest.LogCaptureFixture) -> None:
    batch = load_batch(Numbers(40, broken=frozenset({7})), [6, 7, 39, 6], epoch=3)
    assert batch["image"][:, 0, 0, 0].tolist() == [6, 8, 39, 6]
    assert (batch["image"][:, 1] == 3).all()
    assert batch["label"].tolist() == [0, 0, 1, 0]
    assert "7.png" in caplog.text


def test_many_batches_in_a_row_are_quick() -> None:
    stream = BatchStream(Numbers(1_000_000), 64, seed=0)
    stream.elements(0)
    start = time.process_time()
    for step in range(100):
        stream.elements(step)
    assert time.process_time() - start < 1.0
    assert len(list(islice(stream.batches(10**9), 2))) == 2


INTERRUPTED = """
import sys
import time
sys.path.insert(0, {folder!r})
from test_data import Numbers
from dfm_core.training.data import BatchStream

if __name__ == "__main__":
    try:
        print("starting", flush=True)
        for step, batch in enumerate(BatchStream(Numbers(40), 4, seed=0, workers=2).batches()):
            if step == 0:
                print("loading", flush=True)
            time.sleep(0.2)  # as a training step does: an interrupt seldom meets the handing over of a batch
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["starting", "loading"])
def test_interrupts_reach_the_main_process_only(when: str, tmp_path: Path) -> None:
    """Ctrl-C signals the whole group: workers must neither die nor print, or the checkpoint gets no chance."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED.format(folder=str(Path(__file__).parent)))
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, script], stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    assert process.stdout is not None
    while process.stdout.readline().strip() not in (when, ""):
        pass
    time.sleep(0.5 if when == "starting" else 0.3)  # workers import torch for longer than that
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert output.endswith("interrupted\n")
    assert errors == ""
