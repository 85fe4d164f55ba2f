"""Contact sheets and schedule plots: what is drawn where, and that a file is complete or absent."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dfm_core.errors import DFMError, UsageError
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.pictures.figures import new_figure, save_figure
from dfm_core.pictures.plots import (
    phase_starts,
    plot_decomposition,
    plot_schedule,
    stage_picture,
    tile,
    to_picture,
)
from dfm_core.stages import StageLayout, StageShape


def grid(columns: list[list[float]], visible: list[list[bool]]) -> ScheduleGrid:
    return ScheduleGrid(torch.tensor(columns, dtype=torch.float64).T, torch.tensor(visible).T)


TWO = grid([[0, 0.35, 0.7, 0.85, 1], [0, 0, 0, 0.5, 1]], [[True] * 4, [False, False, True, True]])


def test_each_stage_is_drawn_from_the_step_at_which_it_appears() -> None:
    (axes,) = plot_schedule(TWO, "a title").axes
    lines = [line for line in axes.lines if str(line.get_label()).startswith("stage")]
    assert [list(np.asarray(line.get_xdata())) for line in lines] == [[0, 1, 2, 3, 4], [2, 3, 4]]
    assert [list(np.asarray(line.get_ydata())) for line in lines] == [[0, 0.35, 0.7, 0.85, 1], [0, 0.5, 1]]
    assert [text.get_text() for text in axes.texts] == ["τ = 0.7", "phase 1", "phase 2"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["stage 1", "stage 2"]
    assert axes.get_title() == "a title"


def test_phases() -> None:
    assert phase_starts(TWO) == [0, 2]
    assert phase_starts(grid([[0, 0.5, 1]], [[True, True]])) == [0]


def test_a_schedule_of_one_phase_names_no_threshold() -> None:
    (axes,) = plot_schedule(grid([[0, 0.5, 1], [0, 0.5, 1]], [[True, True], [True, True]])).axes
    assert [text.get_text() for text in axes.texts] == ["phase 1"]


def test_pixels_of_pictures() -> None:
    colour = torch.tensor([-1.0, 0.0, 3.0]).reshape(3, 1, 1)
    np.testing.assert_allclose(to_picture(colour)[0, 0], [0, 0.5, 1])
    np.testing.assert_allclose(to_picture(colour[:1])[0, 0], [0, 0, 0])
    np.testing.assert_allclose(to_picture(torch.stack([colour[1], *[colour[0]] * 3]))[0, 0], [0.5] * 3)


def test_the_first_stage_as_it_is_and_details_around_grey() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(3, 64, 64)
    picture, shown = stage_picture(ramp, 3, is_first=True)
    assert shown == "shown as is"
    np.testing.assert_allclose(picture, to_picture(ramp))
    picture, shown = stage_picture(ramp * 0.1, 3, is_first=False)
    assert shown == "shown ×10"
    np.testing.assert_allclose(picture, to_picture(ramp), atol=0.01)


def test_a_first_stage_that_is_brighter_than_an_image_is_scaled() -> None:
    picture, shown = stage_picture(torch.linspace(-2, 2, 64).expand(3, 64, 64), 3, is_first=True)
    assert shown == "shown ×0.5"
    assert picture[0, 10, 0] == pytest.approx(0.5 + (-2 + 40 / 63) / 4, abs=0.01)


def test_an_empty_stage_is_grey() -> None:
    picture, shown = stage_picture(torch.zeros(3, 4, 4), 3, is_first=False)
    assert shown == "empty"
    assert (picture == 0.5).all()


def test_sub_bands_are_tiles_with_white_between() -> None:
    bands = torch.stack([torch.full((4, 6), value) for value in (1.0, 0.5, -1.0) for _ in range(3)])
    picture, shown = stage_picture(bands, 3, is_first=False)
    assert shown == "3 sub-bands, shown ×1"
    assert picture.shape == (4 + 1 + 4, 6 + 1 + 6, 3)
    np.testing.assert_allclose(picture[:4, :6], 1)
    np.testing.assert_allclose(picture[:4, 7:], 0.75)
    np.testing.assert_allclose(picture[5:, :6], 0)
    np.testing.assert_allclose(picture[5:, 7:], 1)  # no fourth band
    np.testing.assert_allclose(picture[4], 1)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (48, 7), (49, 7)])
def test_tiles_make_a_square(count: int, columns: int) -> None:
    side = columns * 8 + (columns - 1)
    assert tile([np.zeros((8, 8, 3))] * count).shape == (side, side, 3)


def report(
    channels: int = 3, height: int = 16, width: int = 16
) -> tuple[StageLayout, list[torch.Tensor], torch.Tensor]:
    layout = StageLayout((StageShape((height // 2, width // 2), (channels, height // 2, width // 2)),) * 1)
    layout = StageLayout((*layout.stages, StageShape((height, width), (channels, height, width))))
    generator = torch.Generator().manual_seed(0)
    stages = [torch.rand(1, *entry.shape, generator=generator) - 0.5 for entry in layout]
    return layout, stages, torch.rand(1, channels, height, width, generator=generator) * 2 - 1


def titles(figure: object) -> list[str]:
    return [axes.get_title() for axes in figure.axes]  # type: ignore[attr-defined]


def test_a_contact_sheet_names_what_it_shows() -> None:
    layout, stages, original = report()
    figure = plot_decomposition(layout, tuple(stages), [stages[0], original + 1e-3], original, "a title")
    first, second, *rest = titles(figure)
    assert first.startswith("stage 1: 3×8×8\nrms 0.2")
    assert first.endswith("shown as is")
    assert second.startswith("stage 2: 3×16×16\nrms 0.2")
    assert rest == [
        "original\n16 px",
        "stage 1: preview of 8 px",
        "stages 1 to 2: preview of 16 px",
        "reconstruction error\nlargest 1.0e-03, shown ×1e+03",
    ]


def test_an_exact_reconstruction_is_called_that() -> None:
    layout, stages, original = report()
    figure = plot_decomposition(layout, tuple(stages), [stages[0], original], original, "")
    assert titles(figure)[-1] == "reconstruction error\nnone"


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 64), (64, 16), (1024, 1024)])
def test_the_sheet_has_the_picture_s_aspect_ratio_and_a_sensible_size(height: int, width: int) -> None:
    layout, stages, original = report(1, height, width)
    figure = plot_decomposition(layout, tuple(stages), [stages[0], original], original, "")
    sheet_width, sheet_height = figure.get_size_inches() * 120
    assert 1000 < sheet_width < 3000
    assert sheet_height == pytest.approx(2 * sheet_width / 3 * height / width + 144)


def test_a_figure_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(plot_schedule(TWO), tmp_path / "new" / "schedule.png")
    with Image.open(tmp_path / "new" / "schedule.png") as picture:
        assert picture.size == (960, 528)
    figure = new_figure(1, 1)

    def full(path: Path, **_options: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(DFMError, match=r"cannot write .*schedule.png: No space left on device; choose another place"):
        save_figure(figure, tmp_path / "new" / "schedule.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["schedule.png"]
    with Image.open(tmp_path / "new" / "schedule.png") as picture:
        assert picture.size == (960, 528)


def test_paths_that_do_not_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        save_figure(new_figure(1, 1), tmp_path)
    with pytest.raises(UsageError, match=r"'pgn' cannot be written. Did you mean 'png'"):
        save_figure(new_figure(1, 1), tmp_path / "a.pgn")
    save_figure(new_figure(1, 1), tmp_path / "without_ending")
    assert (tmp_path / "without_ending").read_bytes().startswith(b"\x89PNG")
