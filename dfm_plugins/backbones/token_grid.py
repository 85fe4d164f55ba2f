"""The choice of patches: square, one size a stage, so that all stages give the same grid of tokens.

Clips: `grid_at` knows their patches, (frames, height, width); what is chosen here are those of one frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dfm_core.errors import CompositionError, StageShapeError, StageSizeError
from dfm_core.stages import Size, StageLayout, format_size
from dfm_plugins.backbones.fitting_sizes import suggestion

DEFAULT_TOKENS = 16
"""Most tokens along the short side that are taken unasked."""
FEWEST_TOKENS = 4
"""Fewest tokens along the short side that are taken unasked, where the stages have as many elements."""


@dataclass(frozen=True)
class Patching:
    """The patch of each stage, and the token grid that they give at the training size.

    Both are (height, width), of clips (frames, height, width).
    """

    patches: tuple[Size, ...]
    grid: Size

    def grid_at(self, stages: Sequence[Tensor]) -> Size:
        """Token grid of these stages, each (B, C, *size). Raises StageShapeError unless all give the same one.

        Frame counts may be multiples of the patches (plain), or all of them one more (causal).
        """
        sizes = [tuple(stage.shape[2:]) for stage in stages]
        if (grid := self.grid_of(sizes)) is not None:
            return grid
        raise StageShapeError(
            f"stages of tensor sizes {', '.join('x'.join(map(str, size)) for size in sizes)} do not give one token "
            f"grid with patches {', '.join(map(format_size, self.patches))}; use multiples of the patches in the "
            "training ratios"
        )

    def grid_of(self, sizes: Sequence[Size]) -> Size | None:
        """Token grid of stages of these sizes, as in `grid_at`; None where they do not give one."""
        for first in (0, 1) if len(self.patches[0]) == 3 else (0,):
            grids = {_grid(size, patch, first) for size, patch in zip(sizes, self.patches, strict=True)}
            if len(grids) == 1 and (grid := grids.pop()) is not None:
                return grid
        return None


def choose_patching(
    layout: StageLayout, token_grid: int | None, patch_size: int | None, most: int = DEFAULT_TOKENS
) -> Patching:
    """Return the patches for stages of this layout, which must be images (C, H, W).

    token_grid: tokens along the short side. patch_size: patch of the finest stage. With neither: the most tokens, up to
    `most`, that divide every stage (where none does, the fewest). Raises StageSizeError that names the values that
    work, also where there would be fewer than 4 tokens unasked.
    """
    asked = range(FEWEST_TOKENS, most + 1) if token_grid is None else range(token_grid, token_grid + 1)
    choices = possible_patchings(layout, asked)
    if token_grid is not None:
        return _pick("token_grid", token_grid, {min(choice.grid): choice for choice in choices}, layout)
    if patch_size is not None:
        return _pick("patch_size", patch_size, {choice.patches[-1][0]: choice for choice in choices}, layout)
    fewest = min(FEWEST_TOKENS, *(min(stage.shape[1:]) for stage in layout))
    enough = [choice for choice in choices if min(choice.grid) >= fewest]
    if not enough:
        only = choices[-1].grid
        raise StageSizeError(
            f"stages of tensor sizes {_sizes(layout)} have at most a token grid of {format_size(only)} in common: "
            f"use sizes that share a larger divisor, or say token_grid={min(only)} if that is meant"
            f"{suggestion(layout, asked)}"
        )
    return [choice for choice in enough if min(choice.grid) <= most or choice is enough[0]][-1]


def growing_patchings(
    layout: StageLayout, token_grid: int | None, patch_size: int | None, most: int = DEFAULT_TOKENS
) -> tuple[Patching, ...]:
    """Return for k = 1…S the patching of the first k stages of which stage k has one patch, the same for every k.

    Stages are images (C, H, W). token_grid: tokens of the finest stage along the short side. patch_size: the patch.
    With neither: the smallest that gives the finest stage at most `most` tokens (where none does, the largest).
    Raises CompositionError that names the values that work, StageSizeError for stages of different aspect ratio.
    """
    prefixes = [possible_patchings(layout.prefix(count)) for count in range(1, len(layout) + 1)]
    by_patch = [{choice.patches[-1][0]: choice for choice in choices} for choices in prefixes]
    patches = sorted(set.intersection(*map(set, by_patch)))
    tokens = {patch: min(by_patch[-1][patch].grid) for patch in patches}
    fitting = [p for p in patches if token_grid in (None, tokens[p]) and patch_size in (None, p)]
    if not fitting:
        asked = f"token_grid={token_grid}" if token_grid is not None else f"patch_size={patch_size}"
        raise CompositionError(_no_patch(layout, asked, tokens))
    if token_grid is None and patch_size is None:
        fitting = [patch for patch in fitting if tokens[patch] <= most] or fitting[-1:]
    return tuple(choices[fitting[0]] for choices in by_patch)


def _no_patch(layout: StageLayout, asked: str, tokens: Mapping[int, int]) -> str:
    rule = (
        f"dit_growing: stages of tensor sizes {_sizes(layout)}: expected a patch that divides every stage and is a "
        "multiple of the ratio of their sizes, so that earlier stages give whole patches in a later one's token grid"
    )
    if not tokens:
        return f"{rule}; there is none: use larger stages, or less far apart, or dit, which has one token grid"
    works = ", ".join(str(count if asked.startswith("token_grid") else patch) for patch, count in tokens.items())
    return f"{rule}, got {asked}; use {asked.partition('=')[0]} {works}"


def possible_patchings(layout: StageLayout, asked: range = range(FEWEST_TOKENS, DEFAULT_TOKENS + 1)) -> list[Patching]:
    """Return every patching that gives all stages the same grid, fewest tokens first; never empty.

    asked: tokens along the short side that sizes in an error are suggested for.
    Raises StageSizeError if there is none (stages of different aspect ratio), CompositionError for other than images.
    """
    sizes = [stage.shape[1:] for stage in layout]
    if any(len(size) != 2 for size in sizes):
        raise CompositionError(
            f"dit takes images, stages of shape (C, H, W); got {', '.join(str(stage.shape) for stage in layout)}"
        )
    choices = []
    for tokens in range(1, min(map(min, sizes)) + 1):
        if any(min(size) % tokens for size in sizes):
            continue
        patches = tuple((min(size) // tokens,) * 2 for size in sizes)
        grids = {_grid(size, patch) for size, patch in zip(sizes, patches, strict=True)}
        if len(grids) == 1 and (grid := grids.pop()) is not None:
            choices.append(Patching(patches, grid))
    if not choices:
        raise StageSizeError(
            f"stages of tensor sizes {_sizes(layout)} share no token grid of square patches: give all stages the same "
            f"aspect ratio, with sides that a common patch divides{suggestion(layout, asked)}"
        )
    return choices


def _pick(option: str, value: int, choices: dict[int, Patching], layout: StageLayout) -> Patching:
    if value not in choices:
        works = ", ".join(map(str, sorted(choices)))
        sizes = f"or stage sizes that are multiples of it{suggestion(layout, range(value, value + 1))}"
        remedy = sizes if option == "token_grid" else "or leave it out"
        raise StageSizeError(
            f"{option}={value} does not fit stages of tensor sizes {_sizes(layout)}: use {option} {works}, {remedy}"
        )
    return choices[value]


def _grid(size: Size, patch: Size, first: int = 0) -> Size | None:
    """Tokens along each axis, or None where the patch does not divide the size.

    first: how many frames at the beginning have a token of their own.
    """
    lengths = (size[0] - first, *size[1:])
    if len(size) != len(patch) or any(length % edge for length, edge in zip(lengths, patch, strict=True)):
        return None
    counts = [length // edge for length, edge in zip(lengths, patch, strict=True)]
    return (counts[0] + first, *counts[1:])


def _sizes(layout: StageLayout) -> str:
    return ", ".join(format_size(stage.shape[1:]) for stage in layout)
