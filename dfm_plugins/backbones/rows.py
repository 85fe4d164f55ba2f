"""Parts of a batch that go different ways through a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dfm_core.interfaces.backbone import Conditioning
from dfm_core.stages import Stages


def rows_where(chosen: Tensor, device: torch.device) -> Tensor:
    """Indices (n,) of the true entries of chosen (B,), on `device`. On a GPU this waits for `chosen` to be there."""
    return chosen.nonzero().flatten().to(device)


def pick(tensors: Sequence[Tensor], rows: Tensor) -> Stages:
    """Take these rows of each tensor; the tensors themselves where that is all of them."""
    return tuple(x if len(rows) == len(x) else x[rows] for x in tensors)


def pick_label(conditioning: Conditioning, rows: Tensor) -> Conditioning:
    """Take the conditioning of these rows."""
    return conditioning if conditioning.label is None else Conditioning(*pick([conditioning.label], rows))


def put(whole: Tensor, rows: Tensor, part: Tensor) -> Tensor:
    """Return `whole` (B, …) with `part` (n, …) in these rows."""
    return part if len(rows) == len(whole) else whole.index_copy(0, rows, part)
