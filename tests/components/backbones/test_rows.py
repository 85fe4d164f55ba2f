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


def test_what_is_added_has_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    layer, rows = nn.Linear(4, 3), torch.randn(5, 4, generator=generator)
    outputs = []
    for apply in (per_sample, lambda part, x: part(x)):
        layer.zero_grad()
        outputs.append(apply(layer, rows))
        outputs[-1].square().sum().backward()
        outputs += [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    for padded, plain in zip(outputs[:3], outputs[3:], strict=True):
        torch.testing.assert_close(padded, plain, rtol=1e-6, atol=1e-7)
