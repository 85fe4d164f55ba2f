"""What an objective hands to the trainer: the loss to minimise, and its named parts for the log."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LossReport:
    """The loss of one (micro-)batch.

    loss: scalar with its graph, a mean over the samples of the batch. parts: (2, P) float32 without a graph; row 0 the
    sums, row 1 the number of samples summed, so that sum / count is the average of a part over any number of batches.
    part_names: P names, the same in every report, such as "stage_1". parts_by_t: (2, P, K), the same sums and numbers
    by timestep, in K equal ranges of t in [0, 1].
    """

    loss: Tensor
    parts: Tensor
    part_names: tuple[str, ...]
    parts_by_t: Tensor | None = None
