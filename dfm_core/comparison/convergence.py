"""The picture of a comparison: every metric against compute, a line a variant. matplotlib, no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dfm_core.comparison.results import Curve, MetricTable, Results
from dfm_core.comparison.statistics import Spread
from dfm_core.pictures.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT = 4.4, 3.3
"""In inches."""


def plot_convergence(results: Results) -> Figure:
    """Draw a panel a metric: mean over seeds, single seeds as dots, real images as a dashed line."""
    columns = min(COLUMNS, len(results.tables))
    rows = math.ceil(len(results.tables) / columns)
    longest = max(map(len, [*results.variants, floor_name(results)]))
    per_row = max(1, int(columns * PANEL_WIDTH / (0.6 + 0.085 * longest)))
    legend = 0.3 + 0.22 * math.ceil((len(results.variants) + 1) / per_row)
    figure = new_figure(PANEL_WIDTH * columns, PANEL_HEIGHT * rows + legend)
    grid = figure.add_gridspec(rows, columns)
    colors = colors_of(list(results.variants))
    for index, table in enumerate(results.tables):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        for name, curve in table.curves.items():
            draw_curve(axes, curve, colors[name], name == results.reference)
        finish(axes, table)
    name_variants(figure, results, colors, per_row)
    return figure


def floor_name(results: Results) -> str:
    """Name of the line of what real images or clips score."""
    return f"real {results.noun}"


def colors_of(names: list[str]) -> dict[str, Any]:
    """A colour a variant."""
    from matplotlib import colormaps

    if len(names) <= 10:
        return dict(zip(names, colormaps["tab10"].colors, strict=False))  # type: ignore[attr-defined]
    return {name: colormaps["turbo"](0.05 + 0.9 * index / (len(names) - 1)) for index, name in enumerate(names)}


def draw_curve(axes: Any, curve: Curve, color: Any, is_reference: bool) -> None:
    """Draw the means over the seeds that got there, and every seed's own value."""
    flops = [point for point in sorted(curve) if curve[point]]
    spreads = [Spread.of(list(curve[point].values())) for point in flops]
    style = "--" if is_reference else "-"
    axes.plot(flops, [spread.mean for spread in spreads], style, color=color, marker="o", markersize=3, linewidth=1.6)
    for point in flops:
        if len(curve[point]) > 1:
            values = list(curve[point].values())
            axes.plot([point] * len(values), values, ".", color=color, alpha=0.35, markersize=4)


def finish(axes: Any, table: MetricTable) -> None:
    """Name and limit the axes; logarithmic upwards where all is above 0."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

    axes.set_title(f"{table.title} ({table.better} is better)", fontsize=10.5)
    axes.set_xlabel("FLOPs of training", fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    lines = [np.asarray(line.get_ydata()) for line in axes.lines]
    values = np.concatenate(lines) if lines else np.array([])
    floor = [] if table.floor is None else [table.floor]
    if len(values) and (values > 0).all() and all(value > 0 for value in floor):
        axes.set_yscale("log")
        span = values.max() / min([values.min(), *floor])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8) if span < 20 else (1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    for value in floor:
        axes.axhline(value, color="0.45", linestyle=":", linewidth=1.2)


def name_variants(figure: Figure, results: Results, colors: dict[str, Any], per_row: int) -> None:
    """One legend for all panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=colors[name], linewidth=2, linestyle="--" if name == results.reference else "-", label=name
        )
        for name in results.variants
    ]
    handles.append(Line2D([], [], color="0.45", linestyle=":", linewidth=1.5, label=floor_name(results)))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), per_row), frameon=False)
