"""The first samples of an evaluation as pictures: a grid of images; of clips a contact sheet, and a GIF."""

from __future__ import annotations

from pathlib import Path

import torch

from dfm_core.clips import contact_sheet, write_gif
from dfm_core.evaluation.image_sets import picture
from dfm_core.images import make_grid, save_png
from dfm_core.interfaces.dataset import Dataset
from dfm_core.media import measured_medium, measured_size
from dfm_core.pictures.clip_gallery import SHEET_COLUMNS, grid_of_clips
from dfm_core.pictures.gallery import grid_columns

GRID_IMAGES, SHEET_CLIPS = 64, 16


def save_pictures(path: Path, samples: Dataset, frame_rate: float) -> None:
    """Write the first samples as a PNG: a grid; of clips a row a clip, and beside it a GIF that plays them."""
    size = measured_size(samples.facts.size)
    clips = measured_medium(size) == "video"
    shown = min(SHEET_CLIPS if clips else GRID_IMAGES, len(samples))
    images = torch.stack([picture(samples.load(index, 0), index, size) for index in range(shown)])
    columns = grid_columns(shown, min(len(samples.classes), shown))
    path.parent.mkdir(parents=True, exist_ok=True)
    if clips:
        save_png(path, contact_sheet(images, SHEET_COLUMNS))
        write_gif(path.with_suffix(".gif"), grid_of_clips(images, columns), frame_rate)
    else:
        save_png(path, make_grid(images, columns))
