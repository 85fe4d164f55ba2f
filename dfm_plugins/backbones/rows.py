"""Layers on one row a sample, whose bits do not depend on how many samples there are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MULTIPLE = 16
"""Rows from which on a CPU's matrix products gave a row the same bits (docs/decisions/0002-image-bits-on-a-cpu.md)."""


def per_sample(layer: nn.Module, rows: Tensor) -> Tensor:
    """Apply a layer to rows (B, features), where no gradient is asked for in multiples of 16 on a CPU."""
    missing = -len(rows) % MULTIPLE
    if not missing or rows.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        result: Tensor = layer(rows)
        return result
    whole: Tensor = layer(F.pad(rows, (0, 0, 0, missing)))
    return whole[: len(rows)]
