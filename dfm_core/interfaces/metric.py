"""Kind `metric`: how good a set of images or clips is, on its own or against a reference. No part of a run.

What is said of images holds for clips, (C, T, H, W), where the spec's `media` holds "video"; a clip of one frame is
measured as an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from dfm_core.errors import PluginError
from dfm_core.stages import Size

Features = dict[str, Tensor]
"""What a metric keeps of B images: name -> a tensor (B, ...) on the CPU, one row an image."""
Values = dict[str, float]
"""Name -> number; the first is the metric's own, the others (of a band, of a level) explain it."""


@dataclass(frozen=True)
class MetricFacts:
    """What core computes for a metric.

    size: height × width of the images, frames × height × width of clips. channels: of the images. classes: names of the
    labels that images may have; empty without any. device: where images come from, and networks belong.
    """

    size: Size
    channels: int
    classes: tuple[str, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class ImageBatch:
    """Images to describe.

    images: (B, C, H, W), clips (B, C, T, H, W), float32 in [-1, 1], of 8 bits, on facts.device. labels: (B,) int64,
    None without. indices: the place of each in its set: what is random about an image derives from it.
    """

    images: Tensor
    labels: Tensor | None
    indices: tuple[int, ...]


class Metric(ABC):
    """Describe every image by features, then measure one set's features against the other's.

    Laws: features of an image depend on it, its label and its index only; no global random state is read or changed;
    inputs are not changed; the order of the images does not matter; what `prepare` gave makes another instance the
    same. Files are read in `__init__`; a wrong one is a ConfigError that names the option.
    """

    def __init__(self, options: BaseModel, facts: MetricFacts) -> None:
        self.options = options
        self.facts = facts

    better: Literal["lower", "higher"] = "lower"
    """Which numbers are good: small ones or large ones."""

    resamples: int = 0
    """How often the samples are drawn anew from themselves for an interval (bootstrap); 0: the metric has none."""

    most_images: int | None = None
    """How many images of either set it takes at most; None: all."""

    fewest_images: int = 1
    """How many images of either set it takes at least: fewer are refused before anything is described."""

    needs_labels: bool = False
    """Whether every image needs a label: others are refused before anything is described."""

    kept_rows: int | None = None
    """How many reference images, the first ones, keep their rows at least; `condense` takes the others'. None: all."""

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """What exactly was measured, for the record: files and their digests, a network's accuracy."""
        return {}

    def prepare(self, reference: Iterable[ImageBatch]) -> dict[str, Tensor]:
        """Learn from the reference what features need, and return it as a state; default: nothing.

        reference: batches of (B, C, *spatial) in their order, loaded as they are asked for. The state holds tensors of
        any shapes. Called once; the state is kept.
        """
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the state that `prepare` returned, here or in another process; called before everything below.

        state: tensors of any shapes, as they were returned. Raises PluginError where nobody takes it.
        """
        if state:
            raise PluginError(f"{type(self).__name__}.prepare returns a state, so it needs a method restore to take it")

    @property
    def features_key(self) -> str | None:
        """Metrics of one key give the same features and condense them alike, so this is done once for all of them.

        Asked for after `restore`. It names the network, its weights and all that changes what the network sees; None:
        the features are nobody else's.
        """
        return None

    @abstractmethod
    def features(self, batch: ImageBatch) -> Features:
        """Describe images, one row each."""

    def condense(self, rows: Features, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take more rows of a reference into a state that stands for them; called where kept_rows is exceeded.

        rows: features of some thousand images. state: what was returned before, {} at first. Returns tensors of any
        shapes, under other names than those of the features. Raises PluginError where nobody condenses.
        """
        raise PluginError(f"{type(self).__name__} keeps some rows of a reference, so it needs a method condense")

    @abstractmethod
    def against(self, reference: Features) -> Callable[[Features], Values]:
        """Return the function that measures the features of samples against those of a reference.

        What needs the reference alone is done once, here. The function may be called with any number of samples. Where
        rows were condensed, their state stands beside those that were kept, and counts as much as they would.
        """

    def warnings(self, reference: int, samples: int) -> list[str]:
        """What should be said of numbers from so many images, in sentences; default: nothing."""
        return []
