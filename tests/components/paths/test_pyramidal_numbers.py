"""Pyramidal Flow's windows, clock and renoising, against the numbers and formulas of its paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfm_core.errors import CompositionError
from dfm_core.interfaces.path import PathFacts, Phase
from dfm_core.interfaces.stage_schedule import StageScheduleFacts
from dfm_core.plugins.registry import default_registry
from dfm_core.preconditioning import preconditioning_coefficients
from dfm_core.stages import StageLayout, StageShape
from dfm_plugins.paths.pyramidal import Pyramidal, block_noise, enlarge, windows
from dfm_plugins.paths.specs import PyramidalOptions

WINDOWS = {2: [(1, 0.5), (2 / 3, 0)], 3: [(1, 2 / 3), (0.8, 1 / 3), (0.5, 0)]}
CLOCKS = {2: [0, 0.4286, 1], 3: [0, 0.2564, 0.6154, 1]}


def facts(num_stages: int, finest: int = 8, scales: tuple[float, ...] | None = None, whole: bool = True) -> PathFacts:
    sizes = [finest >> (num_stages - 1 - k) for k in range(num_stages)]
    layout = StageLayout(tuple(StageShape((size, size), (1, size, size)) for size in sizes))
    return PathFacts(layout, scales or (1.0,) * num_stages, whole)


def of_clips(*frames: int) -> PathFacts:
    sizes = [(count, 8 << k, 8 << k) for k, count in enumerate(frames)]
    return PathFacts(StageLayout(tuple(StageShape(size, (1, *size)) for size in sizes)), (1.0,) * len(frames), True)


def pyramidal(num_stages: int, gamma: float = 1 / 3) -> Pyramidal:
    return Pyramidal(PyramidalOptions(gamma=gamma), facts(num_stages))


@pytest.mark.parametrize("num_stages", WINDOWS)
def test_windows(num_stages: int) -> None:
    found = [(window.start, window.end) for window in windows(num_stages, 1 / 3)]
    assert found == [pytest.approx(pair) for pair in WINDOWS[num_stages]]


def test_one_stage_is_plain_flow_matching() -> None:
    assert [(window.start, window.end) for window in windows(1, 1 / 3)] == [(1.0, 0.0)]
    t = torch.linspace(0, 1, 5)[:, None]
    straight = preconditioning_coefficients(t, torch.tensor([0.4]), "edm")
    found = preconditioning_coefficients(t, torch.tensor([0.4]), "edm", pyramidal(1))
    for name in ("c_in", "c_skip", "c_out"):
        torch.testing.assert_close(getattr(found, name), getattr(straight, name))


@pytest.mark.parametrize("num_stages", CLOCKS)
def test_the_clock_runs_on_from_stage_to_stage(num_stages: int) -> None:
    path = pyramidal(num_stages)
    visible = torch.eye(num_stages, dtype=torch.bool)
    begins = path.told_time(torch.zeros(num_stages, num_stages), visible).diagonal()
    ends = path.told_time(torch.eye(num_stages), visible).diagonal()
    assert [*begins.tolist(), float(ends[-1])] == pytest.approx(CLOCKS[num_stages], abs=5e-5)
    assert ends[:-1].tolist() == pytest.approx(begins[1:].tolist())


@pytest.mark.parametrize("gamma", [1 / 3, 0.1])
def test_block_noise_has_its_covariance(gamma: float) -> None:
    maps = block_noise(torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4), gamma).flatten(1)
    block = enlarge(torch.eye(4, dtype=torch.float64).reshape(4, 1, 2, 2)).flatten(1)
    same = block.T @ block  # 1 where two pixels lie in one block
    torch.testing.assert_close(maps.T @ maps, (1 + gamma) * torch.eye(16, dtype=torch.float64) - gamma * same)


def test_block_noise_of_clips_is_that_of_their_frames() -> None:
    g = torch.randn(2, 3, 5, 4, 8, generator=torch.Generator().manual_seed(0))
    frames = torch.stack([block_noise(frame, 1 / 3) for frame in g.unbind(2)], 2)
    assert torch.equal(block_noise(g, 1 / 3), frames)


@pytest.mark.parametrize("gamma", [1 / 3, 0.1])
@pytest.mark.parametrize(("num_stages", "k"), [(2, 1), (3, 1), (3, 2)])
def test_renoised_noise_is_white_with_the_corrected_share(num_stages: int, k: int, gamma: float) -> None:
    path = pyramidal(num_stages, gamma)
    sizes = [stage.shape for stage in path.facts.layout]
    coarse, fine = sizes[k - 1][1] ** 2, sizes[k][1] ** 2
    units = torch.eye(coarse + fine, dtype=torch.float64)
    stages = [torch.zeros(coarse + fine, *shape, dtype=torch.float64) for shape in sizes]
    share = path.windows[k - 1].end
    stages[k - 1] = share * units[:, :coarse].reshape(-1, *sizes[k - 1])
    visible = torch.arange(num_stages) == k
    phase = Phase(k, torch.zeros(num_stages), visible, visible.roll(-1))
    entered = path.enter_phase(tuple(stages), phase, lambda _: units[:, coarse:].reshape(-1, *sizes[k]))[k].flatten(1)
    want = path.windows[k].start ** 2 * torch.eye(fine, dtype=torch.float64)
    torch.testing.assert_close(entered.T @ entered, want, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (facts(2, whole=False), "--decomposition downsampled"),
        (facts(2, scales=(1.0, 0.3)), "flow.standardize=false"),
        (PathFacts(StageLayout((facts(2).layout[0], facts(1, 16).layout[0])), (1.0, 1.0), True), "twice as high"),
        (of_clips(4, 8), "equally many frames, got 4x8x8, 8x16x16; give every stage as many as the last"),
    ],
)
def test_stages_that_it_cannot_join_are_refused(wrong: PathFacts, message: str) -> None:
    with pytest.raises(CompositionError, match=message):
        Pyramidal(PyramidalOptions(), wrong)


def amplitude(steps: int, shift: float, start: float, detail: float, coarse: float) -> tuple[float, float]:
    """Shares of a Gaussian picture's detail and coarse amplitude that Euler keeps in the last of two stages.

    The stage goes from start·ε + (1 − start)·Up(x_0) to x_1 = Up(x_0) + detail; the velocity is known in closed form.
    """
    facts = StageScheduleFacts(2, (coarse, coarse))
    options = {"steps": (1, steps), "shift": (1.0, shift)}
    t = default_registry().create("stage_schedule", "consecutive", options, facts).grid().t[1:, 1].numpy()
    shares = []
    for sigma, first in ((detail, 0.0), (coarse, 1 - start)):
        data, noise, rate = sigma * (first + (1 - first) * t), start * (1 - t), sigma * (1 - first)
        gain = (data * rate - noise * start) / (data**2 + noise**2)
        shares.append(float(np.prod(1 + np.diff(t) * gain[:-1]) * np.hypot(data[0], noise[0]) / sigma))
    return shares[0], shares[1]


def test_spacing_of_the_last_stage_for_shapes_at_32_pixels() -> None:
    """What examples/compare_quick.yaml says; root mean squares 0.57 at 16 px and 0.12 of what 32 px add."""
    assert amplitude(20, 1.0, 2 / 3, 0.12, 0.57) == pytest.approx((0.87, 0.96), abs=0.005)
    assert amplitude(20, 0.3, 2 / 3, 0.12, 0.57) == pytest.approx((0.93, 0.94), abs=0.005)
