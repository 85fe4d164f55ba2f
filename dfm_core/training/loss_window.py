"""Losses since the last line of the log; they stay on the device until somebody reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dfm_core.errors import NonFiniteLossError
from dfm_core.loss_report import LossReport


class LossWindow:
    """Per step: loss, gradient norm, and the sums and counts of the loss's parts."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._rows: list[list[float]] = []  # one a step: loss, norm, P sums, P counts
        self._first_step = 1

    def append(self, report: LossReport, gradient_norm: Tensor) -> None:
        """Add one step, without waiting for the device. report.loss: without a graph."""
        self._names = report.part_names
        self._pending.append((report.loss, gradient_norm, report.parts))

    def read(self) -> None:
        """Fetch what is still on the device. Raises NonFiniteLossError, naming the step and the part."""
        if not self._pending:
            return
        losses, norms, parts = (torch.stack(column) for column in zip(*self._pending, strict=True))
        fetched = torch.cat([losses[:, None].float(), norms[:, None].float(), parts.flatten(1).float()], dim=1).tolist()
        self._pending.clear()
        for row in fetched:
            self._rows.append(row)
            if not all(map(math.isfinite, row)):
                raise NonFiniteLossError(self._describe(row, self._first_step + len(self._rows) - 1))

    def _describe(self, row: list[float], step: int) -> str:
        loss, norm, *parts = row
        bad = [name for name, value in zip(self._names, parts, strict=False) if not math.isfinite(value)]
        what = (
            f"the loss of {', '.join(bad)}" if bad else "the loss" if not math.isfinite(loss) else "the gradient norm"
        )
        value = next(v for v in (*parts, loss, norm) if not math.isfinite(v))
        return f"{what} is {value} at step {step} (found when the steps from {self._first_step} on were read)"

    def averages(self) -> tuple[float, dict[str, float]]:
        """Mean loss over the steps that were read, and the average of each part that occurred."""
        loss = sum(row[0] for row in self._rows) / len(self._rows)
        count = len(self._names)
        sums = [sum(column) for column in zip(*self._rows, strict=True)][2:]
        totals = zip(self._names, sums[:count], sums[count:], strict=True)
        return loss, {name: total / number for name, total, number in totals if number > 0}

    @property
    def last(self) -> tuple[float, float]:
        """Loss and gradient norm (before clipping) of the last step that was read; NaN before the first."""
        return (self._rows[-1][0], self._rows[-1][1]) if self._rows else (math.nan, math.nan)

    def __len__(self) -> int:
        return len(self._rows) + len(self._pending)

    def restart(self, finished_steps: int) -> None:
        """Forget everything; the next step is number `finished_steps` + 1."""
        self._pending, self._rows, self._first_step = [], [], finished_steps + 1

    def state(self) -> dict[str, Any]:
        """What was read, as JSON types: a resumed run logs the same averages as one that never stopped."""
        return {"first_step": self._first_step, "names": list(self._names), "rows": self._rows}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self._first_step, self._names = int(state["first_step"]), tuple(state["names"])
        self._pending, self._rows = [], [list(map(float, row)) for row in state["rows"]]
