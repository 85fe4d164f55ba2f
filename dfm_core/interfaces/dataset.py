"""Kind `dataset`: images (or clips, or latents), with a label or without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import Tensor

from dfm_core.stages import Size

Split = Literal["train", "validation"]
"""Part of the data; the two share no sample."""
Sample = dict[str, Tensor | int]
"""{"image" | "video" | "latent": float32 (C, *spatial), "label": int (absent on unlabelled data)}."""


@dataclass(frozen=True)
class DatasetFacts:
    """What core computes for a data set.

    size: height × width in pixels of what `load` returns (the finest stage), of clips frames × height × width. split:
    the part of the data. seed: of every augmentation and of the split.
    """

    size: Size
    split: Split
    seed: int


@dataclass(frozen=True)
class StoredLatents:
    """What a data set of latents says of them.

    autoencoder: `Autoencoder.key` of the one that made them. shape: (C, H, W) of each, of clips (C, T, H, W).
    """

    autoencoder: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Section:
    """Samples that follow each other in the indices and share no batch with others.

    length: their number. size: of each; an image among clips is a clip of one frame.
    """

    length: int
    size: Size


class Dataset(ABC):
    """Samples by index.

    Laws: `load` is pure, the same (index, epoch) gives the same bits in any order and any process; no global random
    state is read or changed; the splits share no sample; labels are numbers of `classes`. It must be picklable: workers
    are spawned. Raise DataError in `__init__` where the data is missing. An option called `path` is what `--data` sets.
    """

    def __init__(self, options: BaseModel, facts: DatasetFacts) -> None:
        self.options = options
        self.facts = facts

    channels: int = 3
    """Channels of the images; of latents: of the images that they were made of."""

    shuffle_window: int = 8
    """Shards from which the samples of an epoch are mixed at any one time, where there are shards."""

    @property
    def latents(self) -> StoredLatents | None:
        """Who made the latents that `load` returns; None where it returns images."""
        return None

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0…n−1; empty when the data has no labels."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples of this split; 0 where it has no such split."""

    @abstractmethod
    def load(self, index: int, epoch: int) -> Sample:
        """Return one sample, {"image": (C, H, W) or "video": (C, T, H, W), float32 in [-1, 1], "label": int}.

        Augmentation depends on (facts.seed, epoch, index) only. Raises UnreadableSampleError for a broken sample, which
        the loader skips, counts and names.
        """

    def files(self, indices: Sequence[int]) -> list[Path]:
        """Files on this machine in which samples lie, or folders of such; default: none, as where samples are drawn.

        What was computed from the samples is computed anew where one has another name, size or time.
        """
        return []

    def shard_lengths(self) -> tuple[int, ...] | None:
        """Numbers of samples of the shards, whose samples follow each other in the indices; None without shards.

        With it the order of an epoch stays within a window of `shuffle_window` shards at a time, so that few of them
        need to be at hand.
        """
        return None

    def sections(self) -> tuple[Section, ...] | None:
        """Clips and images, say, where the data set holds several sizes; None where all samples are of facts.size.

        Their lengths add up to that of the data set, and every batch is of one of them. Stage statistics and validation
        are of the first. There are either sections or shards.
        """
        return None


SHARD_DESCRIPTION = "dataset.json"
"""Name of the file beside tar shards that describes them: a `ShardDescription` as JSON."""


class ShardDescription(BaseModel):
    """What `dataset.json` says of the tar shards in its folder, so that they need not be opened to know it.

    A shard holds samples as files of one key: `<key>.jpg` (or another image) or `<key>.latent.npy` (float16 or float32,
    (C, H, W), of clips (C, T, H, W)), and where there are labels `<key>.cls`, the number of a class.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    shards: dict[str, NonNegativeInt] = Field(description="File name of each shard -> its number of samples.")
    classes: tuple[str, ...] = Field(default=(), description="Names of the labels; empty without labels.")
    channels: PositiveInt = Field(default=3, description="Channels of the images, before any autoencoder.")
    size: tuple[PositiveInt, ...] | None = Field(
        default=None, description="Height and width in pixels of what was encoded, before them the frames of clips."
    )
    latent_shape: tuple[PositiveInt, ...] | None = Field(
        default=None, description="(C, H, W) of every latent, of clips (C, T, H, W)."
    )
    autoencoder: str | None = Field(
        default=None, description="`Autoencoder.key` of the one that made the latents; null for images."
    )
