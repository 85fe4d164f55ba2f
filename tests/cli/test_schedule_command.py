"""`dfm schedule`: the printed timesteps against independent lines, JSON, plots, mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_tools import TINY, Dfm, Rejected, read_picture
from numpy.typing import NDArray

from dfm_core.model import load

PAPER = ["--stages", "256,512,1024", "--steps", "30,10,10", "--thresholds", "0.9,0.8"]


def straight_lines(steps: list[int], thresholds: list[float]) -> NDArray[np.float64]:
    """The paper's grid (steps + 1, S) by hand: 0, then straight to τ in the own phase, then straight to 1."""
    columns, start, total = [], 0, sum(steps)
    for count, threshold in zip(steps, [*thresholds, 1.0], strict=True):
        phase = [threshold * (i + 1) / count for i in range(count)]
        left = total - start - count
        rest = [threshold + (1 - threshold) * (i + 1) / left for i in range(left)]
        columns.append([0.0] * (start + 1) + phase + rest)
        start += count
    return np.array(columns).T


def test_printed_timesteps(dfm: Dfm) -> None:
    lines = [line.split() for line in dfm("schedule", *PAPER).lines]
    assert lines[0] == ["step", "stage", "1", "stage", "2", "stage", "3"]
    assert [line[0] for line in lines[1:]] == [str(step) for step in range(51)]
    printed = [["0" if cell == "-" else cell for cell in line[1:]] for line in lines[1:]]
    np.testing.assert_allclose(np.array(printed, float), straight_lines([30, 10, 10], [0.9, 0.8]), atol=5.1e-5)
    dashes = [line[1:].count("-") for line in lines[1:]]
    assert dashes == [2] * 31 + [1] * 10 + [0] * 10


def test_json(dfm: Dfm) -> None:
    result = dfm("schedule", *PAPER, "--json").json
    np.testing.assert_allclose(result["t"], straight_lines([30, 10, 10], [0.9, 0.8]), atol=1e-12)
    assert result["t"][-1] == [1, 1, 1]
    visible = np.array(result["visible"])
    assert visible.sum(0).tolist() == [50, 20, 10]
    assert result["plot"] is None


def test_the_defaults(dfm: Dfm) -> None:
    for stages, steps in (("32", [40]), ("32,64", [30, 10]), ("16,32,64", [30, 10, 10])):
        t = dfm("schedule", "--stages", stages, "--json").json["t"]
        np.testing.assert_allclose(t, straight_lines(steps, [0.9] * (len(steps) - 1)), atol=1e-12)


def test_sigmas_show_what_the_automatic_shift_does(dfm: Dfm) -> None:
    t = np.array(dfm("schedule", "--stages", "32,64", "--sigmas", "1,0.2", "--json").json["t"])
    np.testing.assert_allclose(t[:, 0], straight_lines([30, 10], [0.9])[:, 0], atol=1e-12)
    progress = np.arange(11) / 10
    np.testing.assert_allclose(t[30:, 1], progress / (progress + 0.2 * (1 - progress)), atol=1e-12)
    linear = dfm("schedule", "--stages", "32,64", "--sigmas", "1,0.2", "--set", "stage_schedule.options.shift=linear")
    assert linear.lines == dfm("schedule", "--stages", "32,64").lines


ONE_STAGE = "since the only stage hands over to none; leave it out, or use more stages"
NOTE = "note: the root mean square (sigma) of each stage"


@pytest.mark.parametrize(
    ("flags", "noted"),
    [
        ([], True),
        (["--json"], True),
        (["--sigmas", "1,1"], False),
        (["--set", "stage_schedule.options.shift=linear"], False),
        (["--set", "flow.standardize=true"], False),
        (["--schedule", "consecutive"], False),
        (["--quiet"], False),
    ],
    ids=str,
)
def test_a_guessed_sigma_is_told_where_it_matters(flags: list[str], noted: bool, dfm: Dfm) -> None:
    assert dfm("schedule", *flags).err.startswith(NOTE) == noted


def test_the_schedule_of_a_run_has_its_sigmas(dfm: Dfm, trained: Path) -> None:
    model = load(trained, device="cpu")
    shown = dfm("schedule", "--run", trained, "--json")
    np.testing.assert_array_equal(shown.json["t"], model.composition.grid.t.tolist())
    assert shown.err == ""
    changed = dfm("schedule", "--run", trained, "--json", "--steps", "3,2").json["t"]
    np.testing.assert_array_equal(changed, model.with_schedule(steps=(3, 2)).composition.grid.t.tolist())
    ones = dfm("schedule", "--run", trained, "--json", "--sigmas", "1,1").json["t"]
    np.testing.assert_allclose(ones, straight_lines([30, 10], [0.9]), atol=1e-12)


def test_what_the_schedule_of_a_run_refuses(rejected: Rejected, trained: Path, tmp_path: Path) -> None:
    said = rejected("schedule", "--run", trained, "--stages", "8,16", "--seed", 1)
    assert said == "--run: the run has its own configuration; leave out --stages, --seed"
    assert "is not the folder of a run" in rejected("schedule", "--run", tmp_path, code=1)


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["schedule", "--thresholds", "0.7"], "--thresholds"),
        (["schedule", "--set", "stage_schedule.options.thresholds=0.7"], "--set stage_schedule.options.thresholds"),
        (["schedule", "--config", "written.yaml"], ""),
    ],
    ids=str,
)
def test_thresholds_of_one_stage_are_told_where_they_were_typed(
    command: list[str], flag: str, dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "written.yaml").write_text("stage_schedule: {name: progressive, options: {thresholds: [0.7]}}\n")
    said = dfm(*command, "--stages", 32, "--sigmas", 1).err
    assert said == (f"warning: {flag}: changes nothing, {ONE_STAGE}\n" if flag else "")
    assert "changes nothing" not in dfm(*command, "--stages", "32,64", "--sigmas", "1,1").err


def test_sample_and_eval_tell_of_thresholds_of_one_stage(dfm: Dfm, tmp_path: Path) -> None:
    flags = [*TINY, "--decomposition", "identity", "--stages", 8, "--max-steps", 1, "--output", tmp_path / "run"]
    dfm("train", *flags, "--quiet")
    short = ["--num", 2, "--steps", 1, "--thresholds", 0.7]
    assert ONE_STAGE in dfm("sample", tmp_path / "run", *short).err
    assert ONE_STAGE in dfm("eval", tmp_path / "run", *short, "--metrics", "spectrum").err


def test_all_stages_together(dfm: Dfm) -> None:
    t = np.array(dfm("schedule", "--schedule", "simultaneous", "--stages", "32,64", "--steps", "4", "--json").json["t"])
    np.testing.assert_allclose(t, np.repeat(np.arange(5) / 4, 2).reshape(5, 2))


@pytest.mark.parametrize("stages", ["32", "32,64", "16,32,64"])
def test_plots(stages: str, dfm: Dfm, tmp_path: Path) -> None:
    result = dfm("schedule", "--stages", stages, "--plot", tmp_path / "plots" / "schedule.png")
    assert result.lines[-1] == f"wrote {tmp_path / 'plots' / 'schedule.png'}"
    picture = read_picture(tmp_path / "plots" / "schedule.png")
    assert picture.shape == (528, 960, 3)
    blue, orange, green = (
        (picture == colour).all(-1).sum() for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44))
    )
    drawn = len(stages.split(","))
    assert (blue > 500, orange > 200, green > 200) == (True, drawn > 1, drawn > 2)


def test_the_plot_as_another_format(dfm: Dfm, tmp_path: Path) -> None:
    assert dfm("schedule", "--plot", tmp_path / "schedule.svg", "--json").json["plot"] == str(tmp_path / "schedule.svg")
    assert "<svg" in (tmp_path / "schedule.svg").read_text()


MISTAKES = {
    "few steps": (
        ["--steps", "30,10"],
        "steps): expected 3 for 3 stages (one for each, coarse to fine), got 2:",
    ),
    "few thresholds": (["--thresholds", "0.9,0.8,0.7"], "thresholds): expected 2 for 3 stages (one for each stage but"),
    "threshold": (["--thresholds", "0.9,1.5"], "thresholds.1): expected less than or equal to 1, got 1.5"),
    "no number": (["--steps", "30;10"], "--steps: expected whole numbers separated by commas"),
    "sigmas": (["--sigmas", "1,0.1"], "--sigmas: expected 3 positive numbers, one a stage, got '1,0.1'"),
    "sigma 0": (["--sigmas", "1,0,1"], "--sigmas: expected 3 positive numbers"),
    "sigma nan": (["--sigmas", "1,nan,1"], "--sigmas: expected 3 positive numbers"),
    "name": (["--schedule", "progresive"], "unknown stage schedule 'progresive'. Did you mean 'progressive'?"),
    "option": (["--schedule", "simultaneous", "--thresholds", "0.5"], "thresholds): unknown key. Known: steps, shift."),
    "plot": (["--plot", "."], ". is a folder"),
}


def test_a_mistake_names_the_flag_and_the_key(rejected: Rejected) -> None:
    said = rejected("schedule", "--stages", "16,32", "--steps", "3")
    assert said.startswith("--steps (stage_schedule.options.steps): expected 2 for 2 stages")
    said = rejected("schedule", "--stages", "16,32", "--thresholds", "1.5")
    assert said.startswith("--thresholds (stage_schedule.options.thresholds.0): expected less than or equal to 1, got")
    said = rejected("schedule", "--stages", "16,32", "--set", "stage_schedule.options.steps=[3]")
    assert said.startswith("stage_schedule.options.steps: expected 2 for 2 stages")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, rejected: Rejected) -> None:
    flags, message = MISTAKES[mistake]
    assert message in rejected("schedule", "--stages", "16,32,64", *flags)
