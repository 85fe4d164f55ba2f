"""Generated clips into a folder: contact sheets, GIFs, and MP4 files where PyAV is there."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from dfm_core.clips import contact_sheet, write_gif, write_mp4
from dfm_core.images import Pixels, make_grid, save_png

SHEET_COLUMNS = 8
"""Most frames of a clip that a contact sheet shows."""


def can_write_mp4() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


def write_clips(folder: Path, clips: Tensor, columns: int, suffix: str, frame_rate: float) -> list[Path]:
    """Write clips (B, C, T, H, W) in [-1, 1] and return the paths, the contact sheet of all first.

    grid.png: a row a clip, its frames from left to right. grid.gif: all at once, `columns` of them in a row. Then one
    PNG, GIF and MP4 a clip. suffix: of every name.
    """
    paths = [folder / f"grid{suffix}.png"]
    save_png(paths[0], contact_sheet(clips, SHEET_COLUMNS))
    paths += _write_moving(folder / f"grid{suffix}", grid_of_clips(clips, columns), frame_rate)
    for index, clip in enumerate(clips):
        paths.append(folder / f"{index:04d}{suffix}.png")
        save_png(paths[-1], contact_sheet([clip], SHEET_COLUMNS))
        paths += _write_moving(folder / f"{index:04d}{suffix}", clip, frame_rate)
    return paths


def grid_of_clips(clips: Tensor, columns: int) -> Tensor:
    """Tile clips (B, C, T, H, W) in [-1, 1] on white, frame by frame -> one clip (3, T, height, width)."""
    return from_pixels([make_grid(frame, columns) for frame in clips.unbind(2)])


def from_pixels(frames: Sequence[Pixels]) -> Tensor:
    """Pictures (H, W, 3) of uint8 as a clip (3, T, H, W) in [-1, 1]."""
    pixels = torch.stack([torch.from_numpy(frame) for frame in frames])
    return rearrange(pixels, "t h w c -> c t h w").float() / 127.5 - 1


def _write_moving(stem: Path, clip: Tensor, frame_rate: float) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.gif")]
    write_gif(paths[0], clip, frame_rate)
    if can_write_mp4():
        paths.append(stem.with_name(f"{stem.name}.mp4"))
        write_mp4(paths[-1], clip, frame_rate)
    return paths
