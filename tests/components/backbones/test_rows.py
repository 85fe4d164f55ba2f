"""Layers on one row a sample: the same bits, however many samples there are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dfm_plugins.backbones.rows import per_sample


@pytest.mark.parametrize(("features", "width"), [(256, 80), (80, 480), (80, 160), (208, 1248), (384, 2304)])
def test_bits_of_a_row_do_not_depend_on_the_others(features: int, width: int) -> None:
    """On some CPUs, those of a layer alone do."""
    generator = torch.Generator().manual_seed(0)
    layer, rows = nn.Linear(features, width), torch.randn(40, features, generator=generator)
    with torch.no_grad():
        want = per_sample(layer, rows)
        for count in range(1, 40):
            assert torch.equal(per_sample(layer, rows[:count]), want[:count]), count


def test_with_gradients_the_layer_is_left_alone() -> None:
    layer, rows = nn.Linear(4, 3), torch.randn(5, 4)
    assert torch.equal(per_sample(layer, rows), layer(rows))
    per_sample(layer, rows).sum().backward()
    assert layer.weight.grad is not None
