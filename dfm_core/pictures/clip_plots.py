"""Pictures of a decomposed clip: a contact sheet of film strips, and for each stage frames that move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dfm_core.images import Pixels
from dfm_core.inspection import DecompositionReport
from dfm_core.pictures.clip_gallery import SMALLEST_CLIP, enlargement, shown_of
from dfm_core.pictures.figures import new_figure
from dfm_core.pictures.plots import Picture, bands_picture, num_bands, show, stage_gain, to_picture
from dfm_core.stages import format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRIP_FRAMES = 8
"""Most frames of a film strip."""
STRIP_WIDTH = 8.0
"""Width of a film strip on the sheet, in inches."""


def plot_clip_decomposition(report: DecompositionReport, original: Tensor, title: str) -> Figure:
    """Draw a row a stage, its tensor to the left and the preview that ends with it to the right, as film strips.

    The last row has the clip, (1, C, T, H, W) in [-1, 1], and what recomposition loses.
    """
    rows = len(report.stages) + 1
    height = STRIP_WIDTH / min(STRIP_FRAMES, original.shape[2]) * original.shape[3] / original.shape[4]
    figure = new_figure(2 * STRIP_WIDTH, 0.5 + rows * (height + 0.5))
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(rows, 2, squeeze=False)
    for index, (entry, preview) in enumerate(zip(report.layout, report.previews, strict=True)):
        frames, shown = stage_frames(report, index)
        shape, rms = "×".join(map(str, entry.shape)), report.numbers[index].rms
        show(
            axes[index][0],
            film_strip(frames),
            f"stage {index + 1}: {shape}, rms {rms:.3f}, {shown}{_few(len(frames))}",
            9,
        )
        included = "stage 1" if index == 0 else f"stages 1 to {index + 1}"
        size = format_size(entry.resolution).replace("x", "×")
        few = _few(preview.shape[2])
        show(axes[index][1], film_strip(clip_frames(preview[0])), f"{included}: preview of {size}{few}", 9)
    show(axes[-1][0], film_strip(clip_frames(original[0])), f"original{_few(original.shape[2])}", 9)
    error = report.previews[-1] - original
    peak = float(error.abs().max())
    shown = f"largest {peak:.1e}, shown ×{1 / peak:.0e}" if peak else "none"
    show(axes[-1][1], film_strip(clip_frames(error[0] / (peak or 1))), f"reconstruction error: {shown}", 9)
    return figure


def stage_frames(report: DecompositionReport, stage_index: int) -> tuple[list[Picture], str]:
    """Pictures of a stage's tensor, one a frame, and how they were scaled; sub-bands as tiles."""
    stage, channels = report.stages[stage_index][0], report.previews[0].shape[1]
    gain, shown = stage_gain(stage, is_first=stage_index == 0)
    bands = num_bands(stage, channels)
    pictures = [bands_picture(frame * gain, bands) for frame in stage.unbind(1)]
    return pictures, shown if bands == 1 else f"{bands} sub-bands, {shown}"


def clip_frames(clip: Tensor) -> list[Picture]:
    """Pictures of a clip (C, T, H, W) in [-1, 1], one a frame."""
    return [to_picture(frame) for frame in clip.unbind(1)]


def film_strip(frames: Sequence[Picture]) -> Picture:
    """Frames of one size side by side on white; of many, some at equal distances, the first and the last among them."""
    chosen = torch.linspace(0, len(frames) - 1, min(STRIP_FRAMES, len(frames))).round().int().tolist()
    gap = max(1, frames[0].shape[1] // 32)
    padded = [np.pad(frames[index], ((0, 0), (0, gap), (0, 0)), constant_values=1) for index in chosen]
    return np.concatenate(padded, axis=1)[:, :-gap]


def _few(frames: int) -> str:
    """What a title says of a strip that leaves frames out."""
    label = shown_of(frames, STRIP_FRAMES)
    return f" ({label})" if label else ""


def moving_stage(report: DecompositionReport, stage_index: int) -> list[Pixels]:
    """Frames of a stage's tensor beside the preview that ends with it, both as large as the clip or larger.

    As many as the preview has; a tensor with fewer of them shows each for longer.
    """
    previews = clip_frames(report.previews[stage_index][0])
    frames, _ = stage_frames(report, stage_index)
    _, height, width = report.layout[-1].resolution
    scale = enlargement(height, SMALLEST_CLIP)
    size = (scale * height, scale * width)
    shown = [frames[index * len(frames) // len(previews)] for index in range(len(previews))]
    pairs = zip(shown, previews, strict=True)
    return [_side_by_side(_enlarged(stage, size), _enlarged(preview, size)) for stage, preview in pairs]


def _side_by_side(left: Picture, right: Picture) -> Pixels:
    gap = np.ones((left.shape[0], 4, 3))
    return (255 * np.concatenate([left, gap, right], axis=1)).round().astype(np.uint8)


def _enlarged(picture: Picture, size: tuple[int, int]) -> Picture:
    """Nearest neighbour, so that a coarse stage looks as coarse as it is."""
    rows, columns = (np.arange(wanted) * there // wanted for wanted, there in zip(size, picture.shape[:2], strict=True))
    return picture[rows][:, columns]
