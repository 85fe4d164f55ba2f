"""Losses since the last line of the log; they stay on the device until somebody reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dfm_core.errors import NonFiniteLossError
from dfm_core.loss_report import LossReport
from dfm_core.training.distributed import World


class LossWindow:
    """Per step: loss, gradient norm, and the sums and counts of the loss's parts; over all processes when read."""

    def __init__(self, world: World | None = None) -> None:
        self._world = world or World()
        self._names: tuple[str, ...] = ()
        self._pending: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._rows: list[list[float]] = []  # one a step: loss, norm, P sums, P counts
        self._by_t: list[float] = []  # over all steps: P · K sums, P · K counts
        self._first_step = 1

    def append(self, report: LossReport, gradient_norm: Tensor) -> None:
        """Add one step, without waiting for the device. report.loss: without a graph."""
        self._names = report.part_names
        by_t = report.parts[:, :0] if report.parts_by_t is None else report.parts_by_t
        self._pending.append((report.loss, gradient_norm, report.parts, by_t))

    def read(self) -> None:
        """Fetch what is still on the device; all processes must call.

        Raises NonFiniteLossError, naming the step and the part, in all processes if one of them has such a loss.
        """
        if not self._pending:
            return
        columns = [torch.stack(column) for column in zip(*self._pending, strict=True)]
        rows = torch.cat([x.flatten(1) if x.ndim > 1 else x[:, None] for x in (c.float() for c in columns)], dim=1)
        self._pending.clear()
        width = 2 + 2 * len(self._names)
        for fetched in self._combined(rows).tolist():
            row, by_t = fetched[:width], fetched[width:]
            self._rows.append(row)
            # Step by step, so that the sum does not depend on where it is read.
            self._by_t = [a + b for a, b in zip(self._by_t or [0.0] * len(by_t), by_t, strict=True)]
            if not all(map(math.isfinite, row)):
                raise NonFiniteLossError(self._describe(row, self._first_step + len(self._rows) - 1))

    def _combined(self, rows: Tensor) -> Tensor:
        """Means over the processes of loss and norm, sums of the parts' sums and counts."""
        if self._world.size == 1:
            return rows
        total = self._world.total(rows.cpu().double())
        return torch.cat([total[:, :2] / self._world.size, total[:, 2:]], dim=1)

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

    def averages_by_t(self) -> dict[str, dict[str, float]]:
        """Average of each part in the ranges of t that occurred, by the middle of the range."""
        sums, counts = self._by_t[: len(self._by_t) // 2], self._by_t[len(self._by_t) // 2 :]
        size = len(sums) // max(1, len(self._names))
        result: dict[str, dict[str, float]] = {}
        for index, (total, number) in enumerate(zip(sums, counts, strict=True)):
            if number > 0:
                ranges = result.setdefault(self._names[index // size], {})
                ranges[f"{(index % size + 0.5) / size:.4g}"] = total / number
        return result

    @property
    def last(self) -> tuple[float, float]:
        """Loss and gradient norm (before clipping) of the last step that was read; NaN before the first."""
        return (self._rows[-1][0], self._rows[-1][1]) if self._rows else (math.nan, math.nan)

    def __len__(self) -> int:
        return len(self._rows) + len(self._pending)

    def restart(self, finished_steps: int) -> None:
        """Forget everything; the next step is number `finished_steps` + 1."""
        self._pending, self._rows, self._by_t, self._first_step = [], [], [], finished_steps + 1

    def state(self) -> dict[str, Any]:
        """What was read, as JSON types: a resumed run logs the same averages as one that never stopped."""
        window = {"first_step": self._first_step, "names": list(self._names), "rows": self._rows}
        return {**window, "by_t": self._by_t}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self._first_step, self._names = int(state["first_step"]), tuple(state["names"])
        self._pending, self._rows = [], [list(map(float, row)) for row in state["rows"]]
        self._by_t = list(map(float, state["by_t"]))
