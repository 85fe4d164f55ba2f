"""What is said of a network beside its losses: FLOPs of a training step, and which parameters are one stage's own."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from dfm_core.batch_shares import WHOLE, BatchKind, BatchShares, VisibleShares
from dfm_core.errors import CompositionError
from dfm_core.interfaces.backbone import Backbone, Conditioning
from dfm_core.stages import StageLayout, Stages

MetaBatch = tuple[Stages, Tensor, Tensor, Conditioning]


def meta_batch(backbone: Backbone, layout: StageLayout, size: int, labelled: bool, shares: VisibleShares) -> MetaBatch:
    """Arguments of a backbone's forward for `size` samples, without memory: on the meta device.

    Only where the backbone sorts samples by their visible stages are these real, in the proportions of `shares`.
    """
    with torch.device("meta"):
        noisy = tuple(torch.empty(size, *stage.shape) for stage in layout)
        visible = torch.empty(size, len(layout), dtype=torch.bool)
        label = torch.empty(size, dtype=torch.int64) if labelled else None
        t = torch.empty(size, len(layout))
    return noisy, t, visible_rows(shares, size) if backbone.splits_batch else visible, Conditioning(label)


def visible_rows(shares: VisibleShares, size: int) -> Tensor:
    """Masks (size, S) on the CPU, each set as often as its share says: rounded down, the rest by largest remainder."""
    exact = {visible: share * size for visible, share in shares.items()}
    counts = {visible: int(count) for visible, count in exact.items()}
    remainders = sorted(exact, key=lambda visible: counts[visible] - exact[visible])
    for visible in remainders[: size - sum(counts.values())]:
        counts[visible] += 1
    return torch.tensor([visible for visible, count in counts.items() for _ in range(count)])


def mean_square(velocities: Sequence[Tensor]) -> Tensor:
    """A scalar that depends on every velocity, for counting a backward pass."""
    return torch.stack([velocity.square().mean() for velocity in velocities]).sum()


def expected(kinds: Sequence[BatchKind], costs: Sequence[int]) -> int:
    """Mean of the costs of all kinds of batches, each as often as it is met; exact, however large."""
    return round(sum(Fraction(kind.probability) * cost for kind, cost in zip(kinds, costs, strict=True)))


def training_flops(
    backbone: Backbone,
    layout: StageLayout,
    size: int,
    labelled: bool,
    shares: VisibleShares | None = None,
    kept: BatchShares = WHOLE,
) -> int:
    """FLOPs of forward and backward of `size` loaded samples: matrix products, convolutions, attention.

    shares: how often which stages are visible in training, by default all of them in every sample. kept: of a batch,
    by its visible stages; then the mean over the batches that are met. Counted with meta tensors in the place of
    parameters and buffers, so that nothing of the network changes.
    """
    state = {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]
    }
    kinds = kept.kinds(size, shares or {(True,) * len(layout): 1.0})
    costs = []
    for kind in kinds:
        batch = meta_batch(backbone, layout, kind.rows, labelled, kind.shares)
        with FlopCounterMode(display=False) as counter:
            mean_square(functional_call(backbone, state, batch)).backward()
        costs.append(int(counter.get_total_flops()))
    return expected(kinds, costs)


def parameter_groups(backbone: Backbone) -> dict[str, list[str]]:
    """Names of the parameters that are one stage's own, by "stage_1", …; empty where the backbone does not say.

    Raises CompositionError for another number of stages, or for parameters that are not the backbone's.
    """
    stages = backbone.stage_parameters()
    if not stages:
        return {}
    count = len(backbone.facts.layout)
    if len(stages) != count:
        raise CompositionError(f"stage_parameters: expected {count} stages, one entry each, got {len(stages)}")
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    if any(id(parameter) not in names for stage in stages for parameter in stage):
        raise CompositionError("stage_parameters: expected parameters of the backbone itself, got others")
    return {f"stage_{index + 1}": [names[id(p)] for p in stage] for index, stage in enumerate(stages)}
