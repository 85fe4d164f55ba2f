"""Figures as files: made without a display, written whole. Imports no torch, and matplotlib only to draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dfm_core.errors import DFMError, UsageError, suggest
from dfm_core.files import complete_or_absent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of a size in inches, without the global state of pyplot and without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_picture_path(path: Path) -> None:
    """Raise UsageError unless a figure can be written to `path`: no folder, and a format that there is."""
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    ending = path.suffix.lstrip(".").lower()
    if path.is_dir():
        raise UsageError(f"{path} is a folder; expected the name of a picture to write, such as {path / 'picture.png'}")
    if ending and ending not in formats:
        raise UsageError(
            f"{path}: pictures of the format {ending!r} cannot be written.{suggest(ending, formats)} Use .png"
        )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG (or by the path's ending), under its final name only when complete.

    Raises UsageError for a path that does not do, DFMError if writing fails.
    """
    check_picture_path(path)
    try:
        with complete_or_absent(path) as partial:
            figure.savefig(partial, dpi=DPI, format=path.suffix.lstrip(".").lower() or "png")
    except OSError as error:
        raise DFMError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
