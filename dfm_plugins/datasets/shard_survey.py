"""What must be known of shards before the first sample is read: how many samples each holds, classes, kind."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dfm_core.errors import DataError
from dfm_core.interfaces.dataset import ShardDescription, Split, StoredLatents
from dfm_plugins.datasets.labels import class_names, class_number, expected_labels
from dfm_plugins.datasets.shard_description import describe_shards
from dfm_plugins.datasets.shard_reader import ShardReader
from dfm_plugins.datasets.shard_sources import check_finished, find_shards, is_remote, printable
from dfm_plugins.datasets.specs import WebDatasetOptions
from dfm_plugins.datasets.tar_scan import LATENT_ENDINGS

_LOGGER = logging.getLogger("dfm")
_MUCH = 10**10
"""Bytes of shards whose headers take a minute or so."""


@dataclass(frozen=True)
class Survey:
    """What is known of the shards of a split.

    lengths: samples of each shard, in the order of `shards`. fingerprints: of the indexes that were read.
    """

    shards: tuple[str, ...]
    lengths: tuple[int, ...]
    classes: tuple[str, ...]
    channels: int
    latents: StoredLatents | None
    fingerprints: Mapping[str, str]


@dataclass(frozen=True)
class _Brief:
    """What the index of a shard says, in short: all indexes together may be large. length: samples of the split."""

    length: int
    total: int
    labels: tuple[str, ...]
    endings: tuple[str, ...]
    skipped: Mapping[str, int]
    damage: str
    fingerprint: str


def survey_shards(options: WebDatasetOptions, split: Split, reader: ShardReader) -> Survey:
    """Find out what there is, reading headers (and fetching remote shards) only where no description says it.

    Raises DataError where shards are missing, are no tar archives, hold no samples or labels outside the classes.
    """
    training, own = shards_of_splits(options, split)
    every = list(dict.fromkeys([*own, *training]))
    described = describe_shards(every)
    common = described.common if described else ShardDescription(shards={})
    counts = described.counts if described else {}
    briefs = _briefs(every, counts, bool(options.validation_fraction), reader)
    classes = _classes(options, common if described else None, [briefs[shard] for shard in training if shard in briefs])
    _check_labels({shard: briefs[shard] for shard in own if shard in briefs}, classes)
    _check_counts(briefs, counts)
    latents = _latents(common, briefs)
    if split == "train" or options.validation_path is not None:
        _report({shard: briefs[shard] for shard in own if shard in briefs})
    lengths = {shard: brief.length for shard, brief in briefs.items()}
    if not options.validation_fraction:
        lengths |= counts
    return Survey(
        tuple(own),
        tuple(lengths.get(shard, 0) for shard in own),
        classes,
        common.channels,
        latents,
        {shard: briefs[shard].fingerprint for shard in own if shard in briefs},
    )


def shards_of_splits(options: WebDatasetOptions, split: Split) -> tuple[list[str], list[str]]:
    """Return the shards to train on, and those of `split`; the same where a share of the samples is for validation."""
    training = find_shards(options.path)
    if options.validation_fraction:
        return training, training
    validation = [] if options.validation_path is None else find_shards(options.validation_path)
    both = sorted(set(training) & set(validation))
    if both:
        raise DataError(f"{len(both)} shards are in path and in validation_path, first {printable(both[0])}")
    return training, training if split == "train" else validation


def _briefs(shards: Iterable[str], counts: Mapping[str, int], by_key: bool, reader: ShardReader) -> dict[str, _Brief]:
    chosen = [
        shard for shard in shards if counts.get(shard) != 0 and (by_key or not is_remote(shard) or shard not in counts)
    ]
    _announce([shard for shard in chosen if not reader.has_index(shard)])
    briefs = {}
    for shard in chosen:
        index = reader.index(shard)
        rows = reader.selection.rows(index)
        briefs[shard] = _Brief(
            len(rows),
            len(index),
            index.label_names,
            index.ending_names,
            index.skipped,
            index.damage,
            index.fingerprint,
        )
    return briefs


def _announce(unseen: list[str]) -> None:
    """Say what will take its time."""
    remote = [shard for shard in unseen if is_remote(shard)]
    if remote:
        _LOGGER.warning(
            "%d remote shards are fetched once to count their samples; a dataset.json beside them would save that",
            len(remote),
        )
    size = sum(os.path.getsize(shard) for shard in unseen if not is_remote(shard))
    if size > _MUCH:
        _LOGGER.warning(
            "the headers of %d shards (%.0f GB) are read once; the next start is quick", len(unseen), size / 1e9
        )


def _classes(options: WebDatasetOptions, described: ShardDescription | None, training: list[_Brief]) -> tuple[str, ...]:
    if not options.labels:
        return ()
    if options.classes is None:
        return described.classes if described else class_names(text for brief in training for text in brief.labels)
    twice = [name for name, count in Counter(options.classes).items() if count > 1]
    if twice:
        raise DataError(f"dataset.options.classes: expected different names, got {twice[0]!r} twice")
    if training and not any(brief.labels for brief in training):
        raise DataError("classes are given and no sample has a label; expected KEY.cls, or see dataset.options.label")
    return options.classes


def _check_labels(briefs: Mapping[str, _Brief], classes: tuple[str, ...]) -> None:
    numbers = {name: number for number, name in enumerate(classes)}
    for shard, brief in briefs.items():
        for text in brief.labels if classes else ():
            if class_number(text, numbers) is None:
                raise DataError(f"shard {printable(shard)}: {expected_labels(text, classes)}")


def _check_counts(briefs: Mapping[str, _Brief], counts: Mapping[str, int]) -> None:
    for shard, brief in briefs.items():
        if brief.total > counts.get(shard, brief.total):
            raise DataError(
                f"dataset.json says that shard {printable(shard)} has {counts[shard]} samples, it has {brief.total}; "
                "write dataset.json again, or take it away"
            )


def _latents(common: ShardDescription, briefs: Mapping[str, _Brief]) -> StoredLatents | None:
    if common.autoencoder is not None:
        if common.latent_shape is None:
            raise DataError(
                "dataset.json names an autoencoder; expected the shape of its latents beside it: latent_shape"
            )
        return StoredLatents(common.autoencoder, common.latent_shape)
    for shard, brief in briefs.items():
        if set(brief.endings) & set(LATENT_ENDINGS):
            check_finished(os.path.dirname(shard))
            raise DataError(
                f"shard {printable(shard)} holds latents, and no dataset.json beside it says which autoencoder made "
                "them (autoencoder) and of which shape they are (latent_shape); `dfm encode` writes one"
            )
    return None


def _report(briefs: Mapping[str, _Brief]) -> None:
    for shard, brief in briefs.items():
        if brief.damage:
            _LOGGER.warning("shard %s: %s; its first %d samples are used", printable(shard), brief.damage, brief.total)
    skipped = sum((Counter(brief.skipped) for brief in briefs.values()), Counter[str]())
    if skipped:
        first = next(shard for shard, brief in briefs.items() if brief.skipped)
        listed = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
        _LOGGER.warning("passed over in the shards: %s; first in %s", listed, printable(first))
