"""Stage sizes near those that were asked for, and which share a token grid: what an error can suggest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from dfm_core.stages import Size, StageLayout, format_size


def suggestion(layout: StageLayout, tokens: range) -> str:
    """End of an error: "; the nearest sizes that work: 8, 16"; empty where none is known or stages are coefficients."""
    sizes = [stage.shape[1:] for stage in layout]
    if any(stage.shape[1:] != stage.resolution for stage in layout):
        return ""
    found = nearest_sizes(sizes, tokens)
    return f"; the nearest sizes that work: {', '.join(map(format_size, found))}" if found else ""


def nearest_sizes(sizes: Sequence[Size], tokens: range) -> list[Size] | None:
    """Sizes (height, width) with the finest one's aspect ratio and a common grid; None where there are none.

    tokens: those allowed along the short side. The finest size changes least, then all together; of equals the ones
    with most tokens.
    """
    height, width = sizes[-1]
    unit = (height // math.gcd(height, width), width // math.gcd(height, width))
    wanted = [(size[0] / unit[0] + size[1] / unit[1]) / 2 for size in sizes]
    growths = [before != after for before, after in itertools.pairwise(sizes)]
    found: list[tuple[float, float, int, list[Size]]] = []
    for count in tokens:
        if count % min(unit):
            continue
        step = count // min(unit)
        scales = [patch * step for patch in _patches([want / step for want in wanted], growths)]
        changes = [abs(scale - want) for scale, want in zip(scales, wanted, strict=True)]
        found.append((changes[-1], sum(changes), -count, [(unit[0] * scale, unit[1] * scale) for scale in scales]))
    return min(found)[-1] if found else None


def _patches(wanted: Sequence[float], growths: Sequence[bool]) -> list[int]:
    """The nearest whole numbers, at least 1. growths: whether each is larger than the one before, else not smaller."""
    patches = [max(1 + sum(growths), round(wanted[-1]))]
    for index in range(len(growths) - 1, -1, -1):
        least = 1 + sum(growths[:index])
        patches.insert(0, max(least, min(round(wanted[index]), patches[0] - growths[index])))
    return patches
