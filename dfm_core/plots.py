"""Pictures of what the method does: a decomposition's stages, a schedule's timesteps. matplotlib, written to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.stages import StageLayout, Stages, format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of a size in inches, without the global state of pyplot and without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG (or by the path's ending), under its final name only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=120, format=path.suffix.lstrip(".") or "png")
    partial.replace(path)


def plot_schedule(grid: ScheduleGrid, thresholds: Sequence[float] = ()) -> Figure:
    """Draw the timestep of every stage over the steps (paper figure 2a): one line a stage, phases shaded."""
    figure = new_figure(8, 4.2)
    axes = figure.add_subplot()
    steps = np.arange(grid.num_steps + 1)
    for stage in range(grid.num_stages):
        axes.plot(steps, grid.t[:, stage].numpy(), marker=".", markersize=4, label=f"stage {stage + 1}")
    for index, start in enumerate(phase_starts(grid)):
        axes.axvline(start, color="0.75", linewidth=0.8, zorder=0)
        axes.annotate(
            f"phase {index + 1}", (start, 1.04), xytext=(3, 0), textcoords="offset points", color="0.4", fontsize=8
        )
    for threshold in sorted(set(thresholds)):
        axes.axhline(threshold, color="0.75", linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(
            f"τ = {threshold:g}", (0, threshold), xytext=(2, 2), textcoords="offset points", color="0.4", fontsize=8
        )
    axes.set(xlabel="step", ylabel="t (0 noise, 1 data)", xlim=(0, grid.num_steps), ylim=(-0.03, 1.12))
    axes.legend(loc="lower right")
    return figure


def phase_starts(grid: ScheduleGrid) -> list[int]:
    """Steps at which the set of visible stages changes, the first step among them."""
    changed = (grid.visible[1:] != grid.visible[:-1]).any(1)
    return [0, *(torch.nonzero(changed).flatten() + 1).tolist()]


def plot_decomposition(
    layout: StageLayout, stages: Stages, previews: Sequence[Tensor], original: Tensor, title: str
) -> Figure:
    """Draw a contact sheet: each stage's tensor, each cumulative preview, the original and what recomposition loses.

    stages, previews: of one image, with a batch dimension of 1. original: (1, C, H, W) in [-1, 1].
    """
    columns = len(stages) + 1
    figure = new_figure(3.1 * columns, 6.9)
    figure.suptitle(title)
    axes = figure.subplots(2, columns, squeeze=False)
    for index, (entry, stage, preview) in enumerate(zip(layout, stages, previews, strict=True)):
        rms = float(stage.float().square().mean().sqrt())
        picture, shown = stage_picture(stage[0], original.shape[1], residual=index > 0)
        heading = f"stage {index + 1}: {'×'.join(map(str, entry.shape))}\nrms {rms:.3f}, shown {shown}"
        show(axes[0][index], picture, heading)
        show(axes[1][index], to_picture(preview[0]), f"stages 1–{index + 1}: {format_size(entry.resolution)} px")
    error = previews[-1] - original
    show(axes[0][-1], to_picture(original[0]), f"original\n{format_size(original.shape[2:])} px")
    peak = float(error.abs().max())
    picture = to_picture(error[0] / max(peak, 1e-12))
    show(axes[1][-1], picture, f"reconstruction error\nmax {peak:.1e} (shown ×{1 / max(peak, 1e-12):.0e})")
    return figure


def stage_picture(stage: Tensor, channels: int, residual: bool) -> tuple[np.ndarray[Any, Any], str]:
    """Picture of a stage's tensor (C_s, H, W) and how it was scaled: sub-bands side by side, residuals around grey."""
    stage = stage.float()
    bands = stage.shape[0] // channels if stage.shape[0] % channels == 0 else stage.shape[0]
    if bands > 1:
        columns = int(np.ceil(np.sqrt(bands)))
        stage = rearrange(stage, "(n c) h w -> n c h w", n=bands)
        stage = torch.cat([stage, stage.new_zeros(columns * -(-bands // columns) - bands, *stage.shape[1:])])
        stage = rearrange(stage, "(r q) c h w -> c (r h) (q w)", q=columns)
    # The 99.5th percentile, not the maximum: one bright edge must not turn the whole residual grey.
    peak = float(torch.quantile(stage.abs().flatten()[:: max(1, stage.numel() // 100_000)], 0.995)) if residual else 1.0
    gain = 1 / max(peak, 1e-6)
    return to_picture(stage * gain), f"×{gain:.1f}" if residual else "as is"


def to_picture(image: Tensor) -> np.ndarray[Any, Any]:
    """(C, H, W) in [-1, 1] to (H, W, 3) in [0, 1]; other channel counts show their first."""
    image = image.detach().float().cpu().clamp(-1, 1)
    image = image if image.shape[0] == 3 else image[:1].expand(3, -1, -1)
    return rearrange(image, "c h w -> h w c").numpy() / 2 + 0.5


def show(axes: Any, picture: np.ndarray[Any, Any], title: str) -> None:
    """Draw a picture without ticks and without smoothing, so that its pixels show."""
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
