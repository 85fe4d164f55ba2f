"""What a picture of curves shows, and where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfm_core.pictures.curve_plots import by_t_between, columns_for, plot_curves, smoothed, title_of
from dfm_core.runs.curves import Curve, RunCurves, all_keys, select


def made(name: str, scale: float = 1.0, stages: int = 2) -> RunCurves:
    steps = range(10, 110, 10)
    curves: dict[str, Curve] = {"loss": [(step, scale * 100 / step) for step in steps]}
    curves |= {f"parts/stage_{s + 1}": [(step, scale / (s + 1)) for step in steps] for s in range(stages)}
    curves["peak_memory"] = [(step, 5e9) for step in steps]
    by_t = {
        f"stage_{s + 1}": {t: [(step, t * step * scale) for step in steps] for t in (0.75, 0.25)} for s in range(stages)
    }
    return RunCurves(name, curves, by_t)


def panels(figure: Any) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in figure.axes}


def test_one_run() -> None:
    run = made("my run")
    figure = plot_curves([run], all_keys(run))
    found = panels(figure)
    assert list(found) == [
        *("loss", "loss, stage 1", "loss, stage 2", "peak memory", "loss by t, stage 1", "loss by t, stage 2")
    ]
    assert figure.get_suptitle() == "my run"
    assert figure.legends == []
    (line,) = found["loss"].lines
    assert list(line.get_xdata()) == list(range(10, 110, 10))
    assert line.get_ydata()[0] == 10
    periods = found["loss by t, stage 1"].lines
    assert [period.get_label() for period in periods] == [
        *("steps 1 to 25", "steps 26 to 50", "steps 51 to 75", "steps 76 to 100")
    ]
    np.testing.assert_allclose(periods[0].get_xydata(), [[0.25, 0.25 * 15], [0.75, 0.75 * 15]])
    alphas = [period.get_alpha() for period in periods]
    assert alphas == sorted(alphas)
    assert found["peak memory"].get_ylim() == (0, pytest.approx(5.4e9))


def test_several_runs_have_a_colour_each_and_a_legend() -> None:
    runs = [made("a"), made("b", 2.0), made("c", 3.0, stages=1)]
    figure = plot_curves(runs, ["loss", "parts/stage_2", "loss_by_t/stage_1"])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    found = panels(figure)
    assert [line.get_label() for line in found["loss"].lines] == ["a", "b", "c"]
    assert len({line.get_color() for line in found["loss"].lines}) == 3
    assert len(found["loss by t, stage 1"].lines) == 3
    assert found["loss"].lines[1].get_color() == found["loss by t, stage 1"].lines[1].get_color()
    assert found["loss by t, stage 1"].get_legend() is None
    assert figure.get_suptitle() == ""


def test_many_runs_keep_distinct_colours() -> None:
    figure = plot_curves([made(f"run {index}") for index in range(25)], ["loss"])
    assert len({tuple(line.get_color()) for line in figure.axes[0].lines}) == 25


def test_smoothing_keeps_the_raw_curve_behind() -> None:
    np.testing.assert_allclose(smoothed(np.array([1.0, 2.0, 6.0, 7.0]), 3), [1.5, 3, 5, 6.5])
    np.testing.assert_allclose(smoothed(np.array([1.0, 2.0]), 1), [1, 2])
    np.testing.assert_allclose(smoothed(np.array([1.0, 2.0, 6.0]), 99), [3, 3, 3])
    (axes,) = plot_curves([made("a")], ["loss"], smooth=3).axes
    raw, smooth = axes.lines
    assert raw.get_alpha() < 0.5
    assert raw.get_ydata()[0] == 10
    assert smooth.get_ydata()[0] == 7.5


def test_logarithmic_axes_for_what_shrinks_and_is_positive() -> None:
    run = made("a")
    run.curves["grad_norm"] = [(1, 0.0), (2, 1.0)]
    found = panels(plot_curves([run], [*all_keys(run)], log=True))
    scales = {title: axes.get_yscale() for title, axes in found.items()}
    assert scales == {
        **dict.fromkeys(("loss", "loss, stage 1", "loss, stage 2"), "log"),
        **dict.fromkeys(("loss by t, stage 1", "loss by t, stage 2"), "log"),
        **{"peak memory": "linear", "gradient norm": "linear"},
    }


def test_a_single_point_is_visible() -> None:
    (axes,) = plot_curves([RunCurves("a", {"loss": [(2, 1.0)]}, {})], ["loss"]).axes
    assert axes.lines[0].get_marker() == "o"


def test_layout() -> None:
    assert [columns_for(count) for count in (1, 2, 3, 4, 5, 9)] == [1, 2, 3, 2, 3, 3]
    assert title_of("validation/loss") == "validation loss"
    assert title_of("validation/stage_2") == "validation loss, stage 2"
    assert title_of("grad_norms/stage_1") == "gradient norm, stage 1"
    assert title_of("mine") == "mine"
    t, values = by_t_between({0.5: [(10, 1.0)]}, 10, 20)
    assert len(t) == len(values) == 0


def test_a_part_of_a_name_selects_all_that_begin_so() -> None:
    runs = [made("a"), made("b", stages=1)]
    assert select(runs, ["parts"]).keys == ["parts/stage_1", "parts/stage_2"]
    assert select(runs, ["loss_by_t"]).left_out == {"loss_by_t/stage_2": ["b"]}
    assert select(runs, None).keys == ["loss", "parts/stage_1", "loss_by_t/stage_1"]
