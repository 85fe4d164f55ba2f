"""The choice of patches from the stages' sizes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfm_core.config.sizes import parse_stages
from dfm_core.errors import StageSizeError
from dfm_core.stages import StageLayout, StageShape
from dfm_plugins.backbones.token_grid import Patching, choose_patching, possible_patchings


def layout(*sizes: tuple[int, int]) -> StageLayout:
    return StageLayout(tuple(StageShape(size, (3, *size)) for size in sizes))


def edges(patching: Patching) -> tuple[int, ...]:
    """The edge of each stage's patches, which are square."""
    assert all(height == width for height, width in patching.patches)
    return tuple(height for height, _ in patching.patches)


@pytest.mark.parametrize(
    ("sizes", "patches", "grid"),
    [
        ([(256, 256), (1024, 1024)], (16, 64), (16, 16)),
        ([(32, 32), (64, 64)], (2, 4), (16, 16)),
        ([(8, 8), (32, 32)], (1, 4), (8, 8)),
        ([(16, 16), (32, 32), (128, 128)], (1, 2, 8), (16, 16)),
        ([(28, 28), (56, 56)], (2, 4), (14, 14)),
        ([(32, 48), (64, 96)], (2, 4), (16, 24)),
        ([(16, 16), (16, 16)], (1, 1), (16, 16)),
        ([(17, 17)], (1,), (17, 17)),
        # Square patches of 17×25 do not exist but those of one pixel.
        ([(17, 25)], (1,), (17, 25)),
    ],
)
def test_default_is_the_finest_grid_up_to_16(sizes: list[tuple[int, int]], patches: object, grid: object) -> None:
    patching = choose_patching(layout(*sizes), None, None)
    assert (edges(patching), patching.grid) == (patches, grid)


def test_either_option_fixes_the_grid() -> None:
    stages = layout((32, 48), (64, 96))
    assert edges(choose_patching(stages, 32, None)) == (1, 2)
    assert edges(choose_patching(stages, None, 2)) == (1, 2)
    assert choose_patching(stages, 8, None) == choose_patching(stages, None, 8)


@pytest.mark.parametrize(
    ("token_grid", "patch_size", "said"),
    [
        (12, None, "token_grid=12 does not fit stages of tensor sizes 16, 32: use token_grid 1, 2, 4, 8, 16"),
        (32, None, "stage sizes that are multiples of it"),
        (None, 1, "patch_size=1 does not fit stages of tensor sizes 16, 32: use patch_size 2, 4, 8, 16, 32"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(token_grid: object, patch_size: object, said: str) -> None:
    with pytest.raises(StageSizeError, match=said):
        choose_patching(layout((16, 16), (32, 32)), token_grid, patch_size)


def test_stages_of_different_shape_are_refused() -> None:
    with pytest.raises(StageSizeError, match="same aspect ratio"):
        choose_patching(layout((16, 16), (16, 32)), None, None)


@settings(max_examples=50, deadline=None, database=None)
@given(
    base=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    factors=st.lists(st.integers(1, 4), max_size=2),
)
def test_every_choice_gives_all_stages_the_same_grid(base: tuple[int, int], factors: list[int]) -> None:
    sizes = [base]
    for factor in factors:
        sizes.append((sizes[-1][0] * factor, sizes[-1][1] * factor))
    for patching in possible_patchings(layout(*sizes)):
        for size, patch in zip(sizes, edges(patching), strict=True):
            assert tuple(length / patch for length in size) == patching.grid


def test_almost_no_tokens_are_refused_unless_asked_for() -> None:
    stages = StageLayout((StageShape((7, 7), (3, 7, 7)), StageShape((16, 16), (3, 16, 16))))
    with pytest.raises(StageSizeError, match="token grid of 1 in common.*token_grid=1 if that is meant"):
        choose_patching(stages, None, None)
    assert edges(choose_patching(stages, 1, None)) == (7, 16)
    small = StageLayout((StageShape((2, 2), (3, 2, 2)), StageShape((4, 4), (3, 4, 4))))
    assert choose_patching(small, None, None).grid == (2, 2)


@pytest.mark.parametrize(
    ("sizes", "token_grid", "would_work"),
    [
        ([(10, 10), (16, 16)], None, "8, 16"),
        ([(10, 10), (16, 16)], 8, "8, 16"),
        ([(7, 7), (16, 16)], None, "8, 16"),
        ([(9, 9), (16, 16)], None, "8, 16"),
        ([(8, 8), (16, 24)], None, "8x12, 16x24"),
        ([(16, 16), (16, 32)], None, "12x24, 16x32"),
        ([(16, 16), (20, 20), (24, 24)], 8, "8, 16, 24"),
        ([(8, 8), (13, 13)], None, "8, 12"),
        ([(100, 100), (250, 250), (1000, 1000)], 16, "96, 256, 992"),
    ],
)
def test_what_does_not_fit_is_refused_with_sizes_that_would(
    sizes: list[tuple[int, int]], token_grid: int | None, would_work: str
) -> None:
    with pytest.raises(StageSizeError, match=f"; the nearest sizes that work: {would_work}$"):
        choose_patching(layout(*sizes), token_grid, None)


@settings(max_examples=100, deadline=None, database=None)
@given(
    sizes=st.lists(st.tuples(st.integers(4, 60), st.integers(4, 60)), min_size=1, max_size=3, unique=True),
    token_grid=st.none() | st.integers(2, 20),
)
def test_sizes_that_are_suggested_work(sizes: list[tuple[int, int]], token_grid: int | None) -> None:
    sizes = sorted(sizes, key=lambda size: size[0] * size[1])
    try:
        choose_patching(layout(*sizes), token_grid, None)
    except StageSizeError as error:
        suggested = str(error).partition("; the nearest sizes that work: ")[2]
        if suggested:
            choose_patching(layout(*parse_stages(suggested)), token_grid, None)


def test_stages_of_coefficients_have_no_suggestion() -> None:
    stages = StageLayout((StageShape((14, 14), (12, 7, 7)), StageShape((32, 32), (12, 16, 16))))
    with pytest.raises(StageSizeError, match="if that is meant$"):
        choose_patching(stages, None, None)
