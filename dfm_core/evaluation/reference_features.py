"""What is kept of a reference: features of some images, and what a metric condensed those of the others into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dfm_core.interfaces.metric import Features, Metric

_CONDENSED, _OTHERS = "condensed/", "condensed images"
FEWEST = 2
"""Rows that any set needs, so that its spread can be measured."""


@dataclass(frozen=True)
class ReferenceFeatures:
    """Features of the first images of a reference, and the others condensed.

    rows: one an image. condensed: tensors of any shapes that stand for `others` more images.
    """

    rows: Features
    condensed: Mapping[str, Tensor] = field(default_factory=dict)
    others: int = 0

    @property
    def count(self) -> int:
        """How many images this is."""
        return count(self.rows) + self.others if self.rows else 0

    @property
    def given(self) -> Features:
        """What `Metric.against` is given."""
        return {**self.rows, **self.condensed}

    def parted(self, samples: int) -> tuple[ReferenceFeatures, Features] | None:
        """Take rows out, as many as there are samples, but no more than half; None where that leaves too few.

        Returns the rest, and the rows.
        """
        most = count(self.rows) - FEWEST if self.others else self.count // 2
        size = min(samples, self.count // 2, most)
        if size < FEWEST:
            return None
        rest = {name: rows[:-size] for name, rows in self.rows.items()}
        taken = {name: rows[-size:] for name, rows in self.rows.items()}
        return ReferenceFeatures(rest, self.condensed, self.others), taken

    def tensors(self) -> dict[str, Tensor]:
        """The same as tensors, for `from_tensors`."""
        condensed = {f"{_CONDENSED}{name}": value for name, value in self.condensed.items()}
        return {**self.rows, **condensed, **({_OTHERS: torch.tensor(self.others)} if self.others else {})}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ReferenceFeatures:
        """What `tensors` gave."""
        values = dict(tensors)
        others = int(values.pop(_OTHERS)) if _OTHERS in values else 0
        condensed = {name: values.pop(name) for name in list(values) if name.startswith(_CONDENSED)}
        return cls(values, {name.removeprefix(_CONDENSED): value for name, value in condensed.items()}, others)


def gathered(metric: Metric, parts: Iterable[Features]) -> ReferenceFeatures:
    """Keep the first part of a reference's features, and condense the others as they come.

    parts: as `described_parts` yields them: none of a process that is not the first, or where nothing was readable.
    """
    rows: Features = {}
    condensed: dict[str, Tensor] = {}
    others = 0
    for part in parts:
        if not rows:
            rows = part
        elif part:
            condensed = metric.condense(part, condensed)
            others += count(part)
    return ReferenceFeatures(rows, condensed, others)


def count(features: Features) -> int:
    """How many images features describe."""
    return len(next(iter(features.values())))
