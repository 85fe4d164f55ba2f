"""Generated clips into a folder: contact sheets, GIFs, and MP4 files where PyAV is there."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dfm_core.clips import contact_sheet, write_gif, write_mp4
from dfm_core.images import Pixels, make_grid, save_png

SHEET_COLUMNS = 8
"""Most frames of a clip that a contact sheet shows."""
SMALLEST_CLIP, SMALLEST_CELL = 160, 64
"""Least height in pixels of a clip that is shown alone, and of one among others: a clip of 8 pixels can be seen."""
_LABEL_HEIGHT = 18


def can_write_mp4() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


def write_clips(folder: Path, clips: Tensor, columns: int, suffix: str, frame_rate: float) -> list[Path]:
    """Write clips (B, C, T, H, W) in [-1, 1] and return the paths, the contact sheet of all first.

    grid.png: a row a clip, its frames from left to right. grid.gif: all at once, `columns` of them in a row. Then one
    PNG, GIF and MP4 a clip. suffix: of every name. Tiny clips are enlarged, but for the MP4 of each.
    """
    paths = [folder / f"grid{suffix}.png"]
    save_png(paths[0], sheet_of_clips(clips))
    grid = grid_of_clips(clips, columns)
    paths += _write_moving(folder / f"grid{suffix}", grid, grid, frame_rate)
    for index, clip in enumerate(clips):
        paths.append(folder / f"{index:04d}{suffix}.png")
        save_png(paths[-1], sheet_of_clips(clip[None]))
        paths += _write_moving(folder / f"{index:04d}{suffix}", enlarged(clip, SMALLEST_CLIP), clip, frame_rate)
    return paths


def enlarged(pictures: Tensor, least_height: int) -> Tensor:
    """Pictures (..., H, W) at the smallest whole multiple that is `least_height` high, each pixel a square."""
    scale = enlargement(pictures.shape[-2], least_height)
    return pictures.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def enlargement(height: int, least_height: int) -> int:
    """The smallest whole number by which `height` becomes `least_height` or more."""
    return max(1, -(-least_height // height))


def sheet_of_clips(clips: Tensor) -> Pixels:
    """Contact sheet of clips (B, C, T, H, W), tiny ones enlarged; below it how many frames of them are shown."""
    sheet = contact_sheet(enlarged(clips, SMALLEST_CELL), SHEET_COLUMNS)
    label = shown_of(clips.shape[2], SHEET_COLUMNS)
    if not label:
        return sheet
    strip = Image.new("RGB", (sheet.shape[1], _LABEL_HEIGHT), "white")
    ImageDraw.Draw(strip).text((4, 2), label, fill="black", font=ImageFont.load_default())
    return np.concatenate([sheet, np.asarray(strip)])


def shown_of(frames: int, most: int) -> str:
    """ "8 of 17 frames" where not all of them are shown, else nothing."""
    return f"{most} of {frames} frames" if frames > most else ""


def grid_of_clips(clips: Tensor, columns: int) -> Tensor:
    """Tile clips (B, C, T, H, W) in [-1, 1] on white, frame by frame -> one clip (3, T, height, width).

    Tiny ones are enlarged.
    """
    return from_pixels([make_grid(enlarged(frame, SMALLEST_CELL), columns) for frame in clips.unbind(2)])


def from_pixels(frames: Sequence[Pixels]) -> Tensor:
    """Pictures (H, W, 3) of uint8 as a clip (3, T, H, W) in [-1, 1]."""
    pixels = torch.stack([torch.from_numpy(frame) for frame in frames])
    return rearrange(pixels, "t h w c -> c t h w").float() / 127.5 - 1


def _write_moving(stem: Path, shown: Tensor, clip: Tensor, frame_rate: float) -> list[Path]:
    """Write `shown` as GIF and `clip` as MP4."""
    paths = [stem.with_name(f"{stem.name}.gif")]
    write_gif(paths[0], shown, frame_rate)
    if can_write_mp4():
        paths.append(stem.with_name(f"{stem.name}.mp4"))
        write_mp4(paths[-1], clip, frame_rate)
    return paths
