"""Laws of data sets: each takes one split as a `Dataset`. That of training holds a readable sample at least."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dfm_core.conformance.fresh_process import FreshProcessError, call_fresh
from dfm_core.conformance.global_randomness import under_two_seeds
from dfm_core.conformance.law import LawBroken, Measurement, at_most, law
from dfm_core.errors import UnreadableSampleError
from dfm_core.interfaces.dataset import Dataset, Sample, Section
from dfm_core.stages import Size

_MEDIA = ("image", "video", "latent")
_EPOCHS = (0, 1)
_RANGE = 1 + 1e-6
# Below this many samples two splits are compared completely, else this many of either.
_COMPARED = 256


@law("dataset")
def samples_have_the_declared_form(dataset: Dataset) -> Measurement:
    """A sample holds one float32 tensor of the asked size, finite and in [-1, 1], and at most a label beside it."""
    largest = 0.0
    expected = {"video" if len(dataset.facts.size) == 3 else "image", "latent"}
    for index, sample in _samples(dataset, 8):
        media = [name for name in _MEDIA if name in sample]
        if len(media) != 1 or not set(sample) <= {*media, "label"} or media[0] not in expected:
            raise LawBroken(
                f"sample {index}: expected one of {sorted(expected)} and at most a label, got {sorted(sample)}"
            )
        largest = max(largest, _check_tensor(dataset, index, media[0], sample[media[0]]))
    return Measurement(largest, _RANGE)


@law("dataset")
def labels_match_the_classes(dataset: Dataset) -> Measurement:
    """Classes have different names, and every label is the number of one; without classes there are no labels."""
    names = dataset.classes
    if not isinstance(names, tuple) or len(set(names)) != len(names) or not all(names):
        raise LawBroken(f"expected a tuple of different class names, got {names!r}")
    for index, sample in _samples(dataset, 16):
        label = sample.get("label")
        if not names and label is not None:
            raise LawBroken(f"sample {index} has label {label!r} and the data set no classes: name them, or drop it")
        if names and (not isinstance(label, int) or not 0 <= label < len(names)):
            raise LawBroken(f"sample {index}: expected an int label in 0…{len(names) - 1}, got {label!r}")
    return Measurement()


@law("dataset")
def loading_is_pure(dataset: Dataset) -> Measurement:
    """The same (index, epoch) gives the same bits, in any order, whatever is done to a sample that was handed out."""
    elements = _elements(dataset)
    first = [_digest(dataset.load(*element)) for element in elements]
    for element, before in reversed(list(zip(elements, first, strict=True))):
        sample = dataset.load(*element)
        if _digest(sample) != before:
            raise LawBroken(
                f"(index, epoch) = {element} gave other bits at the second load: keep no state between loads"
            )
        for value in sample.values():
            if isinstance(value, Tensor):
                value.add_(1)
        if _digest(dataset.load(*element)) != before:
            raise LawBroken(f"(index, epoch) = {element} changed with a sample handed out before: return a copy")
    return Measurement()


@law("dataset", once=True)
def loads_the_same_in_another_process(dataset: Dataset) -> Measurement:
    """A pickled copy in a process of its own gives the same bits, so that the number of workers changes nothing."""
    try:
        pickle.dumps(dataset)
    except Exception as error:
        raise LawBroken(
            f"the data set cannot be pickled for a worker process ({error}); open handles in load"
        ) from error
    elements = _elements(dataset)
    here = _digests(dataset, elements)
    try:
        there = call_fresh(_digests, dataset, elements)
    except FreshProcessError as error:
        raise LawBroken(
            f"a worker process cannot load the data set ({error.reason}); its class must be importable there, from an "
            "installed package, and load must need nothing but options and facts"
        ) from error
    different = [element for element, a, b in zip(elements, here, there, strict=True) if a != b]
    return at_most(
        len(different),
        0,
        f"{len(different)} of {len(elements)} samples differ in another process, first (index, epoch) = "
        f"{different[:1]}: depend on no process state (hash() of a str, a process id, a cache)",
    )


@law("dataset")
def global_random_state_is_untouched(dataset: Dataset) -> Measurement:
    """Loading neither reads nor changes the random state of Python, NumPy or torch."""
    elements = _elements(dataset)
    first, second = under_two_seeds(lambda: _digests(dataset, elements), "loading")
    if first != second:
        raise LawBroken("samples depend on a global random state: derive a generator from (seed, epoch, index)")
    return Measurement()


@law("dataset")
def splits_are_disjoint(dataset: Dataset) -> Measurement:
    """No sample of one split is also in the other, where both exist (all of a small set, else some of each)."""
    other = type(dataset)(dataset.options, replace(dataset.facts, split=_other(dataset.facts.split)))
    shared = _contents(dataset) & _contents(other)
    return at_most(
        len(shared), 0, f"{len(shared)} samples are in both splits: divide by name or by index, before any shuffling"
    )


@law("dataset")
def shard_lengths_add_up(dataset: Dataset) -> Measurement:
    """Where there are shards, their lengths are whole numbers from 0 on, whose sum is the length of the data set."""
    lengths = dataset.shard_lengths()
    if lengths is None:
        return Measurement()
    if not all(isinstance(length, int) and length >= 0 for length in lengths):
        raise LawBroken(f"shard_lengths: expected integers from 0 on, got {lengths!r:.100}")
    if sum(lengths) != len(dataset):
        raise LawBroken(f"shard_lengths: expected {len(dataset)} samples in all, got {sum(lengths)}")
    return Measurement(0, 0)


@law("dataset")
def sections_add_up(dataset: Dataset) -> Measurement:
    """Where there are sections, their lengths add up, each has a size, and samples at either end of each are of it."""
    sections = dataset.sections()
    if sections is None:
        return Measurement()
    if not sections or any(section.length < 0 or min(section.size) < 1 for section in sections):
        raise LawBroken(
            f"sections: expected one or more, of lengths from 0 on and sizes from 1 on, got {sections!r:.200}"
        )
    if sum(section.length for section in sections) != len(dataset):
        total = sum(section.length for section in sections)
        raise LawBroken(f"sections: expected {len(dataset)} samples in all, got {total}")
    if dataset.shard_lengths() is not None:
        raise LawBroken("expected sections or shards, got both: every section has an order of its own")
    ends = list(accumulate(section.length for section in sections))
    for section, end in zip(sections, ends, strict=True):
        for index in {end - section.length, end - 1} if section.length else ():
            _check_section(dataset, index, section)
    return Measurement(0, 0)


def _check_section(dataset: Dataset, index: int, section: Section) -> None:
    try:
        sample = dataset.load(index, 0)
    except UnreadableSampleError:
        return
    shapes = {name: tuple(value.shape) for name, value in sample.items() if isinstance(value, Tensor)}
    if any(shape[1:] != tuple(section.size) for shape in shapes.values()):
        raise LawBroken(f"sample {index}: expected the size {section.size} of its section, got {shapes}")


def _size_of(dataset: Dataset, index: int) -> Size:
    start = 0
    for section in dataset.sections() or ():
        start += section.length
        if index < start:
            return section.size
    return dataset.facts.size


def _check_tensor(dataset: Dataset, index: int, medium: str, value: object) -> float:
    """Return the largest magnitude of a sample's tensor, after checking its form."""
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        raise LawBroken(
            f"sample {index}: expected a float32 tensor, got {getattr(value, 'dtype', type(value).__name__)}"
        )
    expected, shape = (dataset.channels, *_size_of(dataset, index)), tuple(value.shape)
    if medium != "latent" and shape != expected:
        raise LawBroken(f"sample {index}: expected the shape {expected}, got {shape}")
    largest = float(value.abs().max())
    if not bool(value.isfinite().all()) or (medium != "latent" and largest > _RANGE):
        raise LawBroken(f"sample {index}: expected finite values in [-1, 1], got {largest:g} as the largest magnitude")
    return largest


def _indices(dataset: Dataset, count: int) -> list[int]:
    """Return up to `count` indices: the first ones, which are likely to be special, and some over the whole range."""
    length = len(dataset)
    if length <= count:
        return list(range(length))
    half = count // 2
    return sorted(
        {*range(half), *(half + (length - half - 1) * i // (count - half) for i in range(1, count - half + 1))}
    )


def _samples(dataset: Dataset, count: int) -> Iterator[tuple[int, Sample]]:
    """Yield (index, sample) of up to `count` readable samples; raises LawBroken if there is none for training."""
    found = 0
    for index in _indices(dataset, count):
        try:
            sample = dataset.load(index, 0)
        except UnreadableSampleError:
            continue
        found += 1
        yield index, sample
    if not found and (len(dataset) or dataset.facts.split == "train"):
        raise LawBroken(f"expected at least one readable sample among {len(dataset)}, got none")


def _elements(dataset: Dataset) -> list[tuple[int, int]]:
    return [(index, epoch) for index, _ in _samples(dataset, 6) for epoch in _EPOCHS]


def _contents(dataset: Dataset) -> set[str]:
    return {_digest(sample) for _, sample in _samples(dataset, _COMPARED)} if len(dataset) else set()


def _digest(sample: Sample) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(sample.items()):
        content = value.contiguous().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()
        digest.update(name.encode() + content)
    return digest.hexdigest()


def _digests(dataset: Dataset, elements: list[tuple[int, int]]) -> list[str]:
    return [_digest(dataset.load(*element)) for element in elements]


def _other(split: str) -> Any:
    return "validation" if split == "train" else "train"
