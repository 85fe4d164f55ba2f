"""The picture of `dfm plot`: one panel a curve, one colour a run; below, the losses by t. matplotlib, no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dfm_core.pictures.figures import new_figure
from dfm_core.runs.curves import BY_T, Curve, RunCurves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = NDArray[np.float64]

COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT = 4.4, 3.0
"""In inches."""
PERIODS = 4
"""A single run's losses by t are drawn for so many parts of its training."""
TITLES = {
    "grad_norm": "gradient norm",
    "grad_norms": "gradient norm",
    "images_per_second": "images/s",
    "learning_rate": "learning rate",
    "utilisation": "utilisation of the matmul rate",
    "data_wait": "share of time waiting for data",
    "peak_memory": "peak memory",
    "seconds": "seconds of training",
    "parts": "loss",
    BY_T: "loss by t",
}
SHRINKING = ("loss", "parts", "validation", "grad_norm", "grad_norms", BY_T)
"""Groups that a logarithmic axis suits."""


def plot_curves(runs: Sequence[RunCurves], keys: Sequence[str], smooth: int = 1, log: bool = False) -> Figure:
    """Draw the curves `keys` of `runs`. smooth: lines that a mean is taken over, the raw curve pale behind it.

    log: logarithmic axes for losses and gradient norms.
    """
    charts = [key for key in keys if key.startswith(f"{BY_T}/")]
    curves = [key for key in keys if key not in charts]
    columns = columns_for(max(len(curves), len(charts)))
    rows = math.ceil(len(curves) / columns) + math.ceil(len(charts) / columns)
    figure = new_figure(PANEL_WIDTH * columns, PANEL_HEIGHT * rows + 0.3 + 0.22 * _legend_rows(runs, columns))
    grid = figure.add_gridspec(rows, columns)
    colors = _colors(len(runs))
    for index, key in enumerate(curves):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        _draw_curves(axes, runs, key, colors, smooth)
        _finish(axes, key, log)
    first = math.ceil(len(curves) / columns)
    for index, key in enumerate(charts):
        axes = figure.add_subplot(grid[first + index // columns, index % columns])
        _draw_by_t(axes, runs, key.partition("/")[2], colors)
        _finish(axes, key, log)
    _name_runs(figure, runs, colors, columns)
    return figure


def columns_for(panels: int) -> int:
    """How many panels stand side by side: few holes, and nothing wider than a screen."""
    return 2 if panels == 4 else min(COLUMNS, panels)


def smoothed(values: Numbers, width: int) -> Numbers:
    """Mean over `width` neighbours, centred, fewer at both ends."""
    before, after = (width - 1) // 2, width // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - before, 0), np.minimum(index + after + 1, len(values))
    result: Numbers = (total[stop] - total[start]) / (stop - start)
    return result


def by_t_between(chart: Mapping[float, Curve], first: float, last: float) -> tuple[Numbers, Numbers]:
    """The middles of t, in order, and the means of the lines with first < step <= last."""
    means = {t: [value for step, value in curve if first < step <= last] for t, curve in chart.items()}
    points = sorted((t, float(np.mean(values))) for t, values in means.items() if values)
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def title_of(key: str) -> str:
    """Heading of a panel: "parts/stage_1" becomes "loss, stage 1"."""
    group, _, part = key.partition("/")
    if group == "validation":
        return f"validation loss, {part.replace('_', ' ')}" if part != "loss" else "validation loss"
    words = [TITLES.get(group, group), part.replace("_", " ")]
    return ", ".join(word for word in words if word)


def _draw_curves(axes: Any, runs: Sequence[RunCurves], key: str, colors: Sequence[Any], smooth: int) -> None:
    for run, color in zip(runs, colors, strict=True):
        table = np.array(run.curves.get(key, []), dtype=np.float64).reshape(-1, 2)
        steps, values = table[:, 0], table[:, 1]
        marker = "o" if len(steps) == 1 else None  # a line of one point is invisible
        if smooth > 1:
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            values = smoothed(values, smooth)
        axes.plot(steps, values, color=color, marker=marker, linewidth=1.5, label=run.name)
    axes.set_xlabel("step", fontsize=9)


def _draw_by_t(axes: Any, runs: Sequence[RunCurves], part: str, colors: Sequence[Any]) -> None:
    """Draw the last quarter of training of each run; of a single one, all quarters, the earlier the paler."""
    for run, color in zip(runs, colors, strict=True):
        chart = run.by_t.get(part, {})
        last = max((curve[-1][0] for curve in chart.values()), default=0)
        periods = range(1, PERIODS + 1) if len(runs) == 1 else [PERIODS]
        for period in periods:
            start, stop = last * (period - 1) / PERIODS, last * period / PERIODS
            t, losses = by_t_between(chart, start, stop)
            if len(t):
                label = f"steps {math.floor(start) + 1} to {math.floor(stop)}" if len(runs) == 1 else None
                alpha = 0.2 + 0.8 * (period / PERIODS) ** 1.5
                axes.plot(t, losses, color=color, alpha=alpha, marker=".", linewidth=1.5, label=label)
    axes.set_xlim(0, 1)
    axes.set_xlabel("t  (0 noise, 1 data)", fontsize=9)
    if len(runs) == 1:
        axes.legend(fontsize=7.5, frameon=False)


def _finish(axes: Any, key: str, log: bool) -> None:
    from matplotlib.ticker import EngFormatter

    group = key.partition("/")[0]
    axes.set_title(title_of(key), fontsize=10.5)
    axes.tick_params(labelsize=8.5)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if group != BY_T:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if group == "peak_memory":
        axes.yaxis.set_major_formatter(EngFormatter(unit="B"))
    values = np.concatenate([np.asarray(line.get_ydata()) for line in axes.lines])
    if log and group in SHRINKING and (values > 0).all():
        _make_logarithmic(axes, float(values.max() / values.min()))
    elif (group not in SHRINKING or group == BY_T) and (values >= 0).all():
        axes.set_ylim(0, 1.08 * float(values.max()) or 1)


def _make_logarithmic(axes: Any, span: float) -> None:
    """span: largest value over smallest. Ticks are plain numbers, and there are some between powers of ten too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    between = (1, 1.5, 2, 3, 4, 6, 8) if span < 20 else (1, 2, 5) if span < 2000 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=between))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _name_runs(figure: Figure, runs: Sequence[RunCurves], colors: Sequence[Any], columns: int) -> None:
    from matplotlib.lines import Line2D

    if len(runs) == 1:
        figure.suptitle(runs[0].name, fontsize=12)
        return
    handles = [
        Line2D([], [], color=color, linewidth=2, label=run.name) for run, color in zip(runs, colors, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=_legend_columns(runs, columns), frameon=False)


def _legend_columns(runs: Sequence[RunCurves], columns: int) -> int:
    """How many names of the longest length fit side by side."""
    inches = 0.6 + 0.085 * max(len(run.name) for run in runs)
    return max(1, min(len(runs), int(columns * PANEL_WIDTH / inches)))


def _legend_rows(runs: Sequence[RunCurves], columns: int) -> int:
    return 0 if len(runs) == 1 else math.ceil(len(runs) / _legend_columns(runs, columns))


def _colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    if count <= 10:
        return list(colormaps["tab10"].colors[:count])  # type: ignore[attr-defined]
    return [colormaps["turbo"](x) for x in _spread(count)]


def _spread(count: int) -> Iterable[float]:
    return (0.05 + 0.9 * index / (count - 1) for index in range(count))
