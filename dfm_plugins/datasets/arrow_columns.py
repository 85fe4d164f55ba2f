"""Which columns of a table hold images and labels, and what the labels are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dfm_core.errors import DataError, suggest
from dfm_plugins.datasets.labels import MOST_CLASSES, class_names

_USUAL_LABELS = ("label", "labels")
_WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_TEXT = ("string", "large_string")
_BYTES = ("binary", "large_binary")


def image_column(features: Mapping[str, Any], asked: str | None) -> str:
    """Name of the column of images: the one asked for, else the only one. Raises DataError."""
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    # Files that the library did not write say nothing of images.
    possible = images or [name for name, feature in features.items() if _holds_files(feature)]
    if asked is not None:
        if asked not in features or not (asked in images or _holds_files(features[asked])):
            raise DataError(_not_there("image", asked, features, possible))
        return asked
    if len(possible) != 1:
        found = f"{len(possible)} ({', '.join(possible)})" if possible else f"none among {', '.join(features)}"
        raise DataError(f"expected one column of images, got {found}; choose one with dataset.options.image")
    return possible[0]


def label_column(features: Mapping[str, Any], asked: str | None) -> str | None:
    """Name of the column of labels: the one asked for, else the only class label, else `label`; None for none."""
    named = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    possible = [name for name, feature in features.items() if name in named or _type(feature) in _WHOLE + _TEXT]
    if asked is not None:
        if asked not in possible:
            raise DataError(_not_there("label", asked, features, possible))
        return asked
    if len(named) > 1:
        raise DataError(
            f"expected one column of class labels, got {len(named)} ({', '.join(named)}); choose one with "
            "dataset.options.label, or none with dataset.options.labels=false"
        )
    return named[0] if named else next((name for name in _USUAL_LABELS if name in possible), None)


def label_names(table: Any, column: str) -> tuple[str, ...]:
    """Names of the classes of a column: its own, the words that occur, or 0…the largest number. Raises DataError."""
    feature = table.features[column]
    if type(feature).__name__ == "ClassLabel":
        return tuple(feature.names)
    values = [value for value in table.unique(column) if value is not None]
    if _type(feature) in _TEXT and len(values) <= MOST_CLASSES:
        return tuple(sorted(values))
    return class_names(map(str, values))


def _holds_files(feature: Any) -> bool:
    """Whether values are bytes, or {"bytes", "path"} as the library keeps files."""
    fields = feature if isinstance(feature, dict) else {}
    return _type(feature) in _BYTES or (set(fields) == {"bytes", "path"} and _type(fields["bytes"]) in _BYTES)


def _type(feature: Any) -> str | None:
    return getattr(feature, "dtype", None) if type(feature).__name__ == "Value" else None


def _not_there(what: str, asked: str, features: Mapping[str, Any], possible: Sequence[str]) -> str:
    return (
        f"dataset.options.{what}={asked!r}: "
        + ("that column holds something else" if asked in features else "there is no such column")
        + f"; expected one of {', '.join(possible) or '(none is suitable)'}.{suggest(asked, possible)}"
    )
