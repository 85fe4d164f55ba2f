"""Pictures of what the method does: a decomposition's stages, a schedule's timesteps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.pictures.figures import DPI, new_figure
from dfm_core.stages import StageLayout, Stages, format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = np.ndarray[Any, Any]
"""(H, W, 3), 0 to 1."""

SMALLEST_PANEL, LARGEST_PANEL, WIDEST_SHEET = 3.1, 7.0, 24.0
"""Width of a contact sheet's panels and of the whole sheet, in inches."""


def plot_schedule(grid: ScheduleGrid, title: str = "") -> Figure:
    """Draw the timestep of every stage over the steps (paper figure 2a): one line a stage, phases apart."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8, 4.4)
    axes = figure.add_subplot()
    for stage in range(grid.num_stages):
        _draw_stage(axes, grid, stage)
    for index, start in enumerate(phase_starts(grid)):
        axes.axvline(start, color="0.75", linewidth=0.8, zorder=0)
        axes.annotate(
            f"phase {index + 1}", (start, 1.06), xytext=(3, 0), textcoords="offset points", color="0.4", fontsize=8
        )
    axes.set(xlabel="step", ylabel="t  (0 noise, 1 data)", xlim=(0, grid.num_steps), ylim=(-0.03, 1.14), title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
    return figure


def _draw_stage(axes: Any, grid: ScheduleGrid, stage: int) -> None:
    """Draw one stage from the step at which it appears, and name its t where the next one appears."""
    seen = torch.nonzero(grid.visible[:, stage]).flatten()
    first = int(seen[0]) if len(seen) else 0
    t = grid.t[:, stage].numpy()
    steps = np.arange(first, grid.num_steps + 1)
    (line,) = axes.plot(steps, t[first:], marker=".", markersize=4, label=f"stage {stage + 1}")
    handovers = [start for start in phase_starts(grid) if start > first][:1]
    for step in handovers:
        axes.annotate(
            f"τ = {t[step]:.3g}",
            (step, t[step]),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=line.get_color(),
            fontsize=9,
        )


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
    height, width = original.shape[2:]
    panel = min(max(SMALLEST_PANEL, width / DPI), LARGEST_PANEL, max(SMALLEST_PANEL, WIDEST_SHEET / columns))
    figure = new_figure(panel * columns, 0.4 + 2 * (panel * height / width + 0.4))
    font_size = min(9 * panel / SMALLEST_PANEL, 14)
    figure.suptitle(title, fontsize=1.3 * font_size)
    axes = figure.subplots(2, columns, squeeze=False)
    for index, (entry, stage, preview) in enumerate(zip(layout, stages, previews, strict=True)):
        picture, shown = stage_picture(stage[0], original.shape[1], is_first=index == 0)
        rms = float(stage.float().square().mean().sqrt())
        shape = "×".join(map(str, entry.shape))
        show(axes[0][index], picture, f"stage {index + 1}: {shape}\nrms {rms:.3f}, {shown}", font_size)
        included = "stage 1" if index == 0 else f"stages 1 to {index + 1}"
        show(axes[1][index], to_picture(preview[0]), f"{included}: preview of {_pixels(entry.resolution)}", font_size)
    show(axes[0][-1], to_picture(original[0]), f"original\n{_pixels(tuple(original.shape[2:]))}", font_size)
    error = previews[-1] - original
    peak = float(error.abs().max())
    shown = f"largest {peak:.1e}, shown ×{1 / peak:.0e}" if peak else "none"
    show(axes[1][-1], to_picture(error[0] / (peak or 1)), f"reconstruction error\n{shown}", font_size)
    return figure


def stage_picture(stage: Tensor, channels: int, is_first: bool) -> tuple[Picture, str]:
    """Picture of a stage's tensor (C_s, H, W) and how it was scaled: sub-bands as tiles, details around grey.

    channels: of the image; a tensor with a multiple of them holds one sub-band each.
    """
    gain, shown = stage_gain(stage, is_first)
    bands = num_bands(stage, channels)
    return bands_picture(stage * gain, bands), shown if bands == 1 else f"{bands} sub-bands, {shown}"


def stage_gain(stage: Tensor, is_first: bool) -> tuple[float, str]:
    """Factor by which a stage's tensor is shown, and the words for it: 1 for a first stage within [-1, 1]."""
    stage = stage.float().cpu()
    # The 99.5th percentile, not the maximum: one bright edge must not turn the whole residual grey.
    peak = float(torch.quantile(stage.abs().flatten()[:: max(1, stage.numel() // 100_000)], 0.995))
    if is_first and peak <= 1:
        return 1.0, "shown as is"
    gain = 1 / max(peak, 1e-6)
    return gain, f"shown ×{gain:.2g}" if peak else "empty"


def num_bands(stage: Tensor, channels: int) -> int:
    """How many sub-bands of `channels` channels a stage's tensor (C_s, *spatial) has; else one a channel."""
    return stage.shape[0] // channels if stage.shape[0] % channels == 0 else stage.shape[0]


def bands_picture(stage: Tensor, bands: int) -> Picture:
    """Picture of a stage's tensor (C_s, H, W) in [-1, 1], its sub-bands as tiles."""
    return tile([to_picture(band) for band in stage.float().cpu().chunk(bands)])


def tile(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one size as a square of tiles with white lines between; one picture stays as it is."""
    if len(pictures) == 1:
        return pictures[0]
    columns = math.isqrt(len(pictures) - 1) + 1
    gap = max(1, pictures[0].shape[1] // 32)
    padded = [np.pad(picture, ((0, gap), (0, gap), (0, 0)), constant_values=1) for picture in pictures]
    padded += [np.ones_like(padded[0])] * (columns**2 - len(padded))
    return rearrange(np.stack(padded), "(r c) h w k -> (r h) (c w) k", c=columns)[:-gap, :-gap]


def to_picture(image: Tensor) -> Picture:
    """(C, H, W) in [-1, 1] to (H, W, 3) in [0, 1]; other channel counts than 1 and 3 show their first."""
    image = image.detach().float().cpu().clamp(-1, 1)
    image = image if image.shape[0] == 3 else repeat(image[0], "h w -> c h w", c=3)
    return rearrange(image, "c h w -> h w c").numpy() / 2 + 0.5


def show(axes: Any, picture: Picture, title: str, font_size: float) -> None:
    """Draw a picture without ticks: pixels show where they are large, and nothing aliases where they are small."""
    axes.imshow(picture, interpolation="antialiased")
    axes.set_title(title, fontsize=font_size)
    axes.set_xticks([])
    axes.set_yticks([])


def _pixels(size: tuple[int, ...]) -> str:
    return f"{format_size(size).replace('x', '×')} px"
