"""The explanations under benchmarks/: what they compute has known answers, and they run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dfm_core.interfaces.stage_schedule import ScheduleGrid

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def linear_grid(steps: int) -> ScheduleGrid:
    return ScheduleGrid(
        torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:, None], torch.ones(steps, 1, dtype=torch.bool)
    )


@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint", "ab2"])
def test_with_many_steps_all_power_arrives(solver: str) -> None:
    import solver_loss

    variance = torch.tensor([[[0.05, 1.0, 20.0]]], dtype=torch.float64)
    arrived = solver_loss.arriving(variance, linear_grid(4000), solver)
    assert torch.allclose(arrived, variance, rtol=0.06 if solver == "euler" else 1e-3)
    assert not torch.allclose(solver_loss.arriving(variance, linear_grid(2), solver), variance, rtol=0.06)


def test_one_step_of_euler_leaves_the_mean_alone() -> None:
    import solver_loss

    # From t = 0 the velocity is −ε: one step takes all of the noise away, and brings nothing.
    variance = torch.tensor([[[0.3, 1.0, 3.0]]], dtype=torch.float64)
    assert (solver_loss.arriving(variance, linear_grid(1), "euler") == 0).all()


def test_variances_and_octaves_are_those_of_white_noise() -> None:
    import solver_loss

    images = 0.5 * torch.randn(300, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    variance = solver_loss.variances(images)
    assert variance.mean() == pytest.approx(0.25, rel=0.01)
    assert solver_loss.octaves(2 * variance, variance) == pytest.approx([10 * torch.tensor(2.0).log10().item()] * 5)


def test_what_is_foretold_of_a_linear_map_and_of_noise() -> None:
    import foretold_details

    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(200, 3, 8, 8, generator=generator)
    known = torch.nn.functional.interpolate(-coarse, scale_factor=2, mode="nearest")
    noise = torch.randn(200, 3, 16, 16, generator=generator)
    for details, low, high in ((known, 0.999, 1.0), (noise, -0.1, 0.05), (known + noise, 0.45, 0.55)):
        seen, unseen = (foretold_details.samples(coarse[part], details[part]) for part in (slice(50, 200), slice(50)))
        assert low < foretold_details.foretold(foretold_details.linear(seen, unseen[0]), unseen[1]) <= high
    square = foretold_details.samples(coarse, coarse.square().repeat_interleave(2, -1).repeat_interleave(2, -2))
    bent = [foretold_details.linear(square, square[0]), foretold_details.network(square, square[0], 300)]
    shares = [foretold_details.foretold(guess, square[1]) for guess in bent]
    assert shares[0] < 0.1 < 0.5 < shares[1]  # what is not linear takes a network


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "smaller", "lines"),
    [
        ("solver_loss", ["--calls", "4", "--images", "16"], 5),
        ("foretold_details", ["--images", "24", "--steps", "2"], 5),
    ],
)
def test_a_script_runs(
    script: str, smaller: list[str], lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, *smaller])
    __import__(script).main()
    assert len(capsys.readouterr().out.splitlines()) == lines
