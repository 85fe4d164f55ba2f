"""Positions of tokens: rotary tables, absolute features, and their memory."""

from __future__ import annotations

import pytest
import torch

from dfm_plugins.backbones.positions import remembered, rotary_table, rotate, sincos_table

CPU = torch.device("cpu")


def test_scores_depend_on_differences_of_position_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 16, generator=generator)
    rows, columns = 7, 5
    rotation = rotary_table((rows, columns), (4, 4), CPU)
    queries, keys = (rotate(x.expand(rows * columns, 16), rotation) for x in (query, key))
    scores = (queries @ keys.T).reshape(rows, columns, rows, columns)
    torch.testing.assert_close(scores[0, 0, 2, 3], scores[4, 1, 6, 4])
    torch.testing.assert_close(scores[3, 2, 1, 0], scores[6, 4, 4, 2])
    assert not torch.isclose(scores[0, 0, 2, 3], scores[0, 0, 3, 2])


def test_rotation_keeps_lengths_and_the_first_token() -> None:
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, rotary_table((2, 3), (4, 4), CPU))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[0], x[0])
    assert not torch.isclose(turned[1:], x[1:]).all(-1).any()


def test_an_axis_without_frequencies_leaves_no_trace() -> None:
    for flat, deep in zip(rotary_table((3, 4), (4, 4), CPU), rotary_table((1, 3, 4), (0, 4, 4), CPU), strict=True):
        assert torch.equal(flat, deep)
    assert torch.equal(sincos_table((3, 4), (2, 2), 1.0, CPU), sincos_table((1, 3, 4), (0, 2, 2), 1.0, CPU))


@pytest.mark.parametrize("grid", [(4, 4), (3, 6), (6, 3)])
def test_absolute_positions_are_centred(grid: tuple[int, int]) -> None:
    table = sincos_table(grid, (3, 3), 1.0, CPU).reshape(*grid, 12)
    sine, cosine = table[..., [0, 1, 2, 6, 7, 8]], table[..., [3, 4, 5, 9, 10, 11]]
    torch.testing.assert_close(sine, -sine.flip(0, 1))
    torch.testing.assert_close(cosine, cosine.flip(0, 1))


def test_scale_keeps_the_extent_of_a_finer_grid() -> None:
    coarse, fine = sincos_table((1, 5), (0, 1), 1.0, CPU), sincos_table((1, 9), (0, 1), 0.5, CPU)
    torch.testing.assert_close(fine[::2], coarse)


def test_time_counts_from_the_first_frame_whatever_the_scale() -> None:
    long, short = (sincos_table((frames, 3, 2), (2, 1, 1), 0.5, CPU).reshape(frames, 6, 8) for frames in (5, 3))
    assert torch.equal(long[:3], short)
    angles = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.01])
    torch.testing.assert_close(long[:, 0, :4], torch.cat((angles.sin(), angles.cos()), -1))
    assert torch.equal(long[0, :, 4:], sincos_table((3, 2), (1, 1), 0.5, CPU))


def test_every_token_has_a_place_of_its_own() -> None:
    table = sincos_table((16, 24), (8, 8), 1.0, CPU)
    assert table.shape == (384, 32)
    distances = torch.cdist(table, table) + 10 * torch.eye(384)
    assert distances.min() > 0.1


def test_tables_are_remembered_by_size() -> None:
    like = torch.zeros(1)
    first = remembered(sincos_table, (2, 7), (2, 2), 1.0, like=like)
    assert remembered(sincos_table, (2, 7), (2, 2), 1.0, like=like) is first
    assert remembered(sincos_table, (7, 2), (2, 2), 1.0, like=like) is not first
    with torch.inference_mode():
        assert not remembered(sincos_table, (5, 7), (2, 2), 1.0, like=like).is_inference()
