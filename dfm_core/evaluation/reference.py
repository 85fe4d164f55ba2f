"""The real images or clips that samples are measured against, and what tells one set of them from another."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dfm_core.assembly import Assembler
from dfm_core.encoding import split_range
from dfm_core.errors import DataError
from dfm_core.evaluation.image_sets import FolderImages, Shown, image_batches
from dfm_core.evaluation.sample_store import digest_of
from dfm_core.files import listing_digest
from dfm_core.interfaces.autoencoder import state_digest
from dfm_core.interfaces.dataset import Dataset, Split
from dfm_core.media import PLURAL, measured_medium, measured_size
from dfm_core.randomness import derive_generator
from dfm_core.runs.evaluation import fixed_choice
from dfm_core.stages import Size

PROBED = 8
"""Images whose bits tell one set of reference data from another, beside its description."""


@dataclass(frozen=True)
class View:
    """How real images are shown where samples are smaller. show: makes them so. size: then. described: plain data."""

    show: Shown
    size: Size
    described: Mapping[str, Any]


@dataclass(frozen=True)
class Reference:
    """Real images or clips.

    described: where they come from, in plain data. most: how many are used at most. view: how they are shown, None as
    they are.
    """

    dataset: Dataset
    described: Mapping[str, Any]
    most: int
    view: View | None = None

    @cached_property
    def indices(self) -> list[int]:
        """Which images are used: the first of `order`."""
        return self.order(self.most)

    def order(self, count: int) -> list[int]:
        """The first `count` images in an order that depends on their number only (of shards: on their order, too).

        Of sections, which are clips and images, say: those of the first.
        """
        sections = self.dataset.sections()
        length = sections[0].length if sections else len(self.dataset)
        if self.dataset.shard_lengths() is not None:
            return fixed_choice(self.dataset, min(count, length))
        return torch.randperm(length, generator=derive_generator(0, "reference"))[:count].tolist()

    @property
    def size(self) -> Size:
        """Height × width, of clips frames × height × width."""
        return measured_size(self.dataset.facts.size if self.view is None else self.view.size)

    @property
    def shown(self) -> Shown | None:
        """What is made of the images before they are measured; None: nothing."""
        return None if self.view is None else self.view.show

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Plain data that differs where the images do: description, numbers, files, bits of some images."""
        return {
            **self.described,
            **({} if self.view is None else {"shown as": dict(self.view.described)}),
            "size": list(self.size),
            "images": len(self.dataset),
            "used": len(self.indices),
            "classes": digest_of({"classes": self.dataset.classes}),
            "files": self._listing(),
            "probe": state_digest(self._probe()),
        }

    def _listing(self) -> str:
        try:
            return listing_digest(self.dataset.files(self.indices))
        except OSError as error:
            raise DataError(f"the reference's data has changed while it was looked at: {error}") from error

    def _probe(self) -> dict[str, Tensor]:
        """The first images that can be read, and their labels. Raises DataError where too few can."""
        blocks = split_range(range(len(self.indices)), PROBED)
        batches = image_batches(self.dataset, self.indices, device=torch.device("cpu"), blocks=blocks, warn=_ignore)
        images: list[Tensor] = []
        labels: list[int] = []
        with closing(batches):
            for batch in batches:
                images += batch.images
                labels += [] if batch.labels is None else batch.labels.tolist()
                if len(images) >= PROBED:
                    break
        if not images:
            raise DataError(f"none of the {PLURAL[measured_medium(self.size)]} of the reference could be read")
        return {"images": torch.stack(images[:PROBED]), "labels": torch.tensor(labels[:PROBED])}


def _ignore(message: str) -> None:
    """Take no note of what cannot be read: it is named when the reference is described."""


def reference_of_run(assembler: Assembler, split: Split, most: int) -> Reference:
    """The data set that a run's configuration names. Raises DataError if it is empty, or no images."""
    dataset = assembler.dataset(split)
    if dataset.latents is not None:
        raise DataError("the run's data is stored latents; give the images that they were made of: --reference FOLDER")
    if len(dataset) == 0:
        raise DataError(f"the {split} split of the run's data is empty; use another --split or --reference FOLDER")
    choice = assembler.config.component("dataset").model_dump(mode="json")
    provider = {key: assembler.providers()["dataset"].get(key, "") for key in ("distribution", "version", "object")}
    described = {"dataset": choice, "provider": provider, "split": split, "seed": assembler.config.seed}
    return Reference(dataset, described, most)


def reference_of_folder(images: FolderImages, most: int) -> Reference:
    """The images of a folder."""
    return Reference(images, {"folder": images.options.path}, most)
