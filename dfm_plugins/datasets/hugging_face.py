"""Images and labels from tables of the library `datasets`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dfm_core.errors import DataError, UnreadableSampleError, UsageError
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from dfm_plugins.datasets.arrow_columns import image_column, label_column, label_names
from dfm_plugins.datasets.arrow_tables import open_tables, require_library, trusted_folders
from dfm_plugins.datasets.augmentation import load_image, split_of
from dfm_plugins.datasets.specs import HuggingFaceOptions


class HuggingFace(Dataset):
    """The rows of a table that lies on disk: only what is read comes into memory.

    Raises DataError where there is no table, no such split, or no column of images; UsageError without the library.
    """

    options: HuggingFaceOptions

    def __init__(self, options: HuggingFaceOptions, facts: DatasetFacts) -> None:
        super().__init__(options, facts)
        if len(facts.size) != 2 or min(facts.size) < 1:
            raise UsageError(f"data set hugging_face: expected a size height × width, got {facts.size}")
        tables = open_tables(options.path, options.configuration, options.cache)
        training = _table(tables, options.train)
        self._image = image_column(training.features, options.image)
        self._label = label_column(training.features, options.label) if options.labels else None
        self._classes = () if self._label is None else label_names(training, self._label)
        self._numbers = {name: number for number, name in enumerate(self._classes)}
        self._folders = trusted_folders(options.path, options.cache)
        chosen = training if facts.split == "train" else _validation_table(tables, training, options)
        self._data = self._prepared(chosen)
        self._rows = _rows(len(chosen), facts, options.validation_fraction)
        if facts.split == "train" and not len(self):
            raise DataError(
                f"{options.path} has {len(training)} rows in {options.train!r}, expected some for training: use "
                f"another split, or lower dataset.options.validation_fraction ({options.validation_fraction:g})"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; empty without labels."""
        return self._classes

    def __len__(self) -> int:
        return len(self._rows)

    def files(self, indices: Sequence[int]) -> list[Path]:
        """All files of the table."""
        return [Path(file["filename"]) for file in self._data.cache_files]

    def load(self, index: int, epoch: int) -> Sample:
        """Read one image, covering facts.size; (3, H, W) in [-1, 1]. Only training images are augmented.

        Raises UnreadableSampleError naming the row.
        """
        row = int(self._rows[index])
        name = f"row {row} of {self.options.path}"
        try:
            values = self._data[row]
        except Exception as error:  # broken tables make Arrow raise anything
            raise UnreadableSampleError(f"cannot read {name}: {type(error).__name__}: {error}") from error
        source = self._source(values[self._image], name)
        sample: Sample = {"image": load_image(source, self.facts, self.options, index, epoch, name)}
        if self._label is not None:
            sample["label"] = self._number(values[self._label], name)
        return sample

    def _prepared(self, table: Any) -> Any:
        """Keep the columns that are used, images as the bytes of their files: all data sets decode alike."""
        missing = [column for column in (self._image, self._label) if column and column not in table.features]
        if missing:
            raise DataError(f"{self.options.path}: the split for validation lacks the column {missing[0]!r}")
        names = getattr(table.features[self._label], "names", None) if self._label else None
        if names is not None and tuple(names) != self._classes:
            raise DataError(f"{self.options.path}: the splits have different classes: {self._classes}, {tuple(names)}")
        table = table.with_format(None).select_columns([column for column in (self._image, self._label) if column])
        if type(table.features[self._image]).__name__ == "Image":
            table = table.cast_column(self._image, require_library().Image(decode=False))
        return table

    def _source(self, value: Any, name: str) -> str | IO[bytes]:
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, None)
        if content is not None:
            return BytesIO(content)
        if path is None:
            raise UnreadableSampleError(f"{name} holds no image")
        # A table may name any file of this machine, or a URL.
        if not any(os.path.normpath(path).startswith(folder + os.sep) for folder in self._folders):
            raise UnreadableSampleError(f"{name} names the file {path!r} outside of {', '.join(self._folders)}")
        return str(path)

    def _number(self, value: Any, name: str) -> int:
        number = self._numbers.get(value) if isinstance(value, str) else value
        if number is None or not 0 <= number < len(self._classes):
            raise UnreadableSampleError(
                f"{name} has the label {value!r}: expected 0…{len(self._classes) - 1} or a name"
            )
        return int(number)


def _table(tables: Mapping[str, Any], name: str) -> Any:
    if name not in tables:
        raise DataError(f"expected a split {name!r}, got {', '.join(tables)}; choose one with dataset.options.train")
    return tables[name]


def _validation_table(tables: Mapping[str, Any], training: Any, options: HuggingFaceOptions) -> Any:
    """Return the table of the validation split: a share of the training's, its own, or an empty one."""
    if options.validation_fraction:
        return training
    if options.validation is not None and options.validation not in tables:
        raise DataError(
            f"expected a split {options.validation!r} for validation, got {', '.join(tables)}; "
            "choose one with dataset.options.validation"
        )
    name = options.validation or "validation"
    return training.select([]) if name == options.train or name not in tables else tables[name]


def _rows(length: int, facts: DatasetFacts, validation_fraction: float) -> NDArray[np.intp]:
    if not validation_fraction:
        return np.arange(length)
    return np.flatnonzero([split_of(facts.seed, str(row), validation_fraction) == facts.split for row in range(length)])
