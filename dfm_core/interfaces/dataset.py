"""Kind `dataset`: images (or clips, or latents), with a label or without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel
from torch import Tensor

from dfm_core.stages import Size

Split = Literal["train", "validation"]
"""Part of the data; the two share no sample."""
Sample = dict[str, Tensor | int]
"""{"image" | "video" | "latent": float32 (C, *spatial), "label": int (absent on unlabelled data)}."""


@dataclass(frozen=True)
class DatasetFacts:
    """What core computes for a data set.

    size: height × width in pixels of what `load` returns (the finest stage). split: the part of the data. seed: of
    every augmentation and of the split.
    """

    size: Size
    split: Split
    seed: int


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
    """Channels of the images."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0…n−1; empty when the data has no labels."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples of this split; 0 where it has no such split."""

    @abstractmethod
    def load(self, index: int, epoch: int) -> Sample:
        """Return one sample, {"image": (C, H, W) float32 in [-1, 1], "label": int}.

        Augmentation depends on (facts.seed, epoch, index) only. Raises UnreadableSampleError for a broken sample, which
        the loader skips, counts and names.
        """
