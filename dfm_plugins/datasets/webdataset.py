"""Images or latents in tar shards, of which any sample can be read at any time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path

from dfm_core.errors import DataError, UnreadableSampleError, UsageError
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample, StoredLatents
from dfm_plugins.datasets.augmentation import load_image
from dfm_plugins.datasets.labels import class_number, expected_labels
from dfm_plugins.datasets.latents import read_latent
from dfm_plugins.datasets.shard_cache import ShardCache
from dfm_plugins.datasets.shard_reader import OpenShard, Selection, ShardReader
from dfm_plugins.datasets.shard_sources import is_remote
from dfm_plugins.datasets.shard_survey import survey_shards
from dfm_plugins.datasets.specs import WebDatasetOptions
from dfm_plugins.datasets.tar_index import Naming
from dfm_plugins.datasets.tar_scan import LATENT_ENDINGS


class WebDataset(Dataset):
    """The samples of tar shards, shard after shard.

    Raises DataError where shards are missing, are no tar archives, hold no samples or labels outside the classes.
    """

    options: WebDatasetOptions

    def __init__(self, options: WebDatasetOptions, facts: DatasetFacts) -> None:
        super().__init__(options, facts)
        if len(facts.size) not in (2, 3) or min(facts.size) < 1:
            raise UsageError(f"data set webdataset: expected a size height × width, got {facts.size}")
        self.shuffle_window = options.shuffle_window
        self._reader = _reader(options, facts)
        self._survey = survey_shards(options, facts.split, self._reader)
        if self.latents is None and len(facts.size) != 2:
            raise UsageError(
                f"data set webdataset: these shards hold images, expected a size height × width, got {facts.size}; "
                "of clips it reads latents only (dfm encode)"
            )
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        self._ends = tuple(accumulate(self._survey.lengths))
        self.channels = self._survey.channels
        if facts.split == "train" and not len(self):
            raise DataError(
                f"all samples of {len(self._ends)} shards fell into the validation split; expected some for training: "
                f"lower dataset.options.validation_fraction ({options.validation_fraction:g}) or add shards"
            )
        if self.latents is not None and (options.flip or options.crop == "random"):
            raise UsageError("latents can be neither mirrored nor cropped: drop dataset.options.flip and crop")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; empty where no sample has one."""
        return self._survey.classes

    @property
    def latents(self) -> StoredLatents | None:
        """Who made the latents, as `dataset.json` says; None where the shards hold images."""
        return self._survey.latents

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def shard_lengths(self) -> tuple[int, ...]:
        """Numbers of samples of the shards."""
        return self._survey.lengths

    def files(self, indices: Sequence[int]) -> list[Path]:
        """The shards, without remote ones."""
        shards = dict.fromkeys(self._survey.shards[bisect_right(self._ends, index)] for index in indices)
        return [Path(shard) for shard in shards if not is_remote(shard)]

    def load(self, index: int, epoch: int) -> Sample:
        """Read one image, covering facts.size, (3, H, W) in [-1, 1], or one latent; only training images are augmented.

        Raises UnreadableSampleError naming shard and key, DataError where the shard has changed or cannot be fetched.
        """
        shard, row = self._find(index)
        sample = self._media(shard, row, index, epoch)
        if self.classes:
            sample["label"] = self._label(shard, row)
        return sample

    def _find(self, index: int) -> tuple[OpenShard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"expected an index of 0…{len(self) - 1}, got {index}")
        number = bisect_right(self._ends, index)
        shard = self._opened(number)
        place = index - (self._ends[number] - self._survey.lengths[number])
        if place >= len(shard.rows):
            raise UnreadableSampleError(
                f"{shard.name}: sample {place + 1} of {self._survey.lengths[number]} is missing, {shard.index.damage}"
            )
        return shard, int(shard.rows[place])

    def _media(self, shard: OpenShard, row: int, index: int, epoch: int) -> Sample:
        name = shard.file_name(row)
        if (shard.ending(row) in LATENT_ENDINGS) != (self.latents is not None):
            kind = "an image" if self.latents is None else "a latent"
            raise UnreadableSampleError(f"{name}: expected {kind}, as the other samples are")
        content = shard.read(row)
        if self.latents is not None:
            return {"latent": read_latent(content, shard.ending(row), self.latents.shape, name)}
        return {"image": load_image(BytesIO(content), self.facts, self.options, index, epoch, name)}

    def _label(self, shard: OpenShard, row: int) -> int:
        text = shard.label(row)
        if text is None:
            raise UnreadableSampleError(f"{shard.file_name(row)}: has no label that can be read, others have one")
        number = class_number(text, self._numbers)
        if number is None:
            raise UnreadableSampleError(f"{shard.file_name(row)}: {expected_labels(text, self.classes)}")
        return number

    def _opened(self, number: int) -> OpenShard:
        """Open a shard and see that it is what it was when the samples were counted."""
        address = self._survey.shards[number]
        shard = self._reader.open(address)
        known = self._survey.fingerprints.get(address, shard.index.fingerprint)
        if shard.index.fingerprint != known or len(shard.rows) > self._survey.lengths[number]:
            raise DataError(
                f"shard {shard.name} is no longer what it was when its samples were counted, or not what dataset.json "
                "says; put the former one back, or begin a new run"
            )
        return shard


def _reader(options: WebDatasetOptions, facts: DatasetFacts) -> ShardReader:
    # The shards that are mixed at a time, and the one that comes next.
    keep = options.shuffle_window + 1
    limit = None if options.cache_gigabytes is None else options.cache_gigabytes * 1e9
    return ShardReader(
        ShardCache(options.cache, limit, keep),
        Naming(options.media, options.labels, options.label, options.label_key),
        Selection(facts.seed, facts.split, options.validation_fraction),
        keep,
    )
