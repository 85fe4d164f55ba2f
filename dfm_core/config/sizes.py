"""Stage sizes as users write them: "256,1024", [256, 1024], ["16x24", [32, 48]], "8x16x16,8x32x32"."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

Size = tuple[int, ...]

EXPECTED = "expected sizes from coarse to fine, like 32,64 or 48x64,96x128 (of clips 8x32x32,8x64x64)"


def parse_stages(value: object) -> tuple[Size, ...]:
    """Read the sizes of all stages, height × width (or frames × height × width), coarsest first.

    One number n means n × n. Raises ValueError unless there is a stage and each is larger than the one before.
    """
    if isinstance(value, str):
        items: Sequence[object] = [part.strip() for part in value.split(",")]
    elif isinstance(value, list | tuple):
        items = value
    else:
        items = [value]
    stages = tuple(_parse_size(item) for item in items)
    if not stages:
        raise ValueError(f"{EXPECTED}; got none")
    _check_growth(stages)
    return stages


def with_frames(stages: Sequence[Size], frames: int) -> tuple[Size, ...]:
    """Stage sizes of clips of `frames` frames: sizes height × width get that many, others must end with as many.

    Raises ValueError for stages that end with another number of frames.
    """
    if len(stages[-1]) == 2:
        return tuple((frames, *size) for size in stages)
    if stages[-1][0] != frames:
        raise ValueError(
            f"frames is {frames}, and the stages {write_stages(stages)} end with {stages[-1][0]} frames; "
            "give one of the two, or both alike"
        )
    return tuple(stages)


def medium_of(stages: Sequence[Size]) -> Literal["image", "video"]:
    """What stages of such sizes hold: "video" where they have frames, else "image"."""
    return "video" if len(stages[-1]) == 3 else "image"


def write_size(size: Sequence[int]) -> str:
    """Write a size as users type it: (64, 64) -> "64", (64, 96) -> "64x96"."""
    return str(size[0]) if len(size) == 2 and size[0] == size[1] else "x".join(map(str, size))


def write_stages(stages: Sequence[Sequence[int]]) -> str:
    """Write stage sizes as users type them: "32,64"."""
    return ",".join(map(write_size, stages))


def _parse_size(item: object) -> Size:
    parts = item.lower().split("x") if isinstance(item, str) else item
    numbers = list(parts) if isinstance(parts, list | tuple) else [parts]
    try:
        size = tuple(_parse_length(number) for number in numbers)
    except ValueError:
        raise ValueError(f"{EXPECTED}; got {item!r}") from None
    if len(size) not in (1, 2, 3) or min(size) < 1:
        raise ValueError(f"{EXPECTED}; got {item!r}")
    return size * 2 if len(size) == 1 else size


def _parse_length(number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise ValueError("not a whole number")
    return int(number)


def _check_growth(stages: Sequence[Size]) -> None:
    for coarse, fine in itertools.pairwise(stages):
        if len(coarse) != len(fine):
            raise ValueError(
                f"expected sizes of equally many dimensions, got {write_size(coarse)} and {write_size(fine)}"
            )
        if coarse == fine or any(before > after for before, after in zip(coarse, fine, strict=True)):
            raise ValueError(
                f"expected sizes that grow from coarse to fine, got {write_size(coarse)} before {write_size(fine)}; "
                f"in order: {write_stages(sorted(set(stages)))}"
            )
