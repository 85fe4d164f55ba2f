"""From the texts of labels to numbers of classes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from dfm_core.errors import DataError, suggest

MOST_CLASSES = 100_000


def class_names(texts: Iterable[str]) -> tuple[str, ...]:
    """Names of the classes whose labels occur: 0…the largest number, or the texts sorted; () where there are none.

    Raises DataError for numbers and words together, negative and very large numbers.
    """
    found = set(texts)
    if len(found) > MOST_CLASSES:
        raise DataError(
            f"{len(found)} different labels, expected at most {MOST_CLASSES} classes: choose other labels "
            "(dataset.options.label), or none (dataset.options.labels=false)"
        )
    numbers = {int(text) for text in found if _is_number(text)}
    if not numbers:
        return tuple(sorted(found))
    if len(numbers) < len(found):
        word = min(text for text in found if not _is_number(text))
        raise DataError(
            f"labels are numbers ({min(numbers)}) and words ({word!r}); expected one or the other: "
            "name all classes in dataset.options.classes, in the order of their numbers"
        )
    if min(numbers) < 0 or max(numbers) >= MOST_CLASSES:
        raise DataError(
            f"labels go from {min(numbers)} to {max(numbers)}; expected numbers of classes, from 0 to below "
            f"{MOST_CLASSES}: choose other labels (dataset.options.label), or none (dataset.options.labels=false)"
        )
    return tuple(map(str, range(max(numbers) + 1)))


def class_number(text: str, numbers: Mapping[str, int]) -> int | None:
    """Number of the class of a label, which is that number or the name; None for what is no class.

    numbers: name of each class -> its number.
    """
    if _is_number(text):
        return int(text) if 0 <= int(text) < len(numbers) else None
    return numbers.get(text)


def expected_labels(text: str, classes: Collection[str]) -> str:
    """Say what stands in the place of a label that is no class."""
    return f"label {text!r}: expected 0…{len(classes) - 1} or the name of a class.{suggest(text, classes)}"


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()
