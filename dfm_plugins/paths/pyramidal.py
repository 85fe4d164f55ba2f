"""Pyramidal flow: within stage k from an enlarged, noisy coarser picture or clip to a less noisy finer one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from dfm_core.errors import CompositionError
from dfm_core.flow import expand_to
from dfm_core.interfaces.path import FreshNoise, Moments, PathFacts, Phase, ProbabilityPath
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.stages import Stages
from dfm_plugins.paths.specs import PyramidalOptions


@dataclass(frozen=True)
class Window:
    """Shares of noise of one stage. start: corrected, s'. end: e. uncorrected: s, with which the stage before ends."""

    start: float
    end: float
    uncorrected: float

    @property
    def keep(self) -> float:
        """α, by which the enlarged coarser picture is scaled: (1 − s')/(1 − s), and 1 at pure noise."""
        return (1 - self.start) / (1 - self.uncorrected) if self.uncorrected < 1 else 1.0


def windows(num_stages: int, gamma: float) -> tuple[Window, ...]:
    """Return the window of every stage: s = 1 − k/K, e = 1 − (k+1)/K, α = 1/(√(1 + 1/γ)·s + 1 − s), s' = 1 − α(1 − s).

    Jin et al. 2024, section 3.2 and appendix A. The first stage starts at noise alone.
    """
    found = []
    for k in range(num_stages):
        start, end = 1 - k / num_stages, 1 - (k + 1) / num_stages
        alpha = 1 / (math.sqrt(1 + 1 / gamma) * start + 1 - start)
        found.append(Window(1 - alpha * (1 - start), 0.0 if k == num_stages - 1 else end, start))
    return tuple(found)


def enlarge(x: Tensor) -> Tensor:
    """Repeat every value of x (..., H, W) twice along both axes, each frame of a clip on its own: nearest neighbour."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)


def block_noise(g: Tensor, gamma: float) -> Tensor:
    """Turn g ~ N(0, I), (B, C, *spatial), into noise of covariance (1+γ)I − γ·11ᵀ in every 2×2 block, else 0.

    Blocks lie in one frame of a clip. In closed form, from their means m: √(1+γ)(g − m) + √(1−3γ)·m. At γ = 1/3 that
    covariance is singular.
    """
    mean = enlarge(F.avg_pool2d(g.flatten(0, -4), 2)).reshape(g.shape)
    return math.sqrt(1 + gamma) * (g - mean) + math.sqrt(max(1 - 3 * gamma, 0.0)) * mean


class Pyramidal(ProbabilityPath):
    """Stage k goes from s'ε + (1 − s')·Up(x_{k−1}) to eε + (1 − e)·x_k, with the same ε. Jin et al. 2024.

    The stages are the downsampled pictures x_k themselves, each half the size of the next; one is visible at a time.
    Entering stage k, the state z becomes α·Up(z) + β·n, whose noise is white again, of share s'. Clips are treated so
    frame by frame.
    """

    options: PyramidalOptions

    def __init__(self, options: PyramidalOptions, facts: PathFacts) -> None:
        super().__init__(options, facts)
        _check_stages(facts)
        self.windows = windows(facts.num_stages, options.gamma)

    def at(self, data: Sequence[Tensor], noise: Sequence[Tensor], t: Tensor) -> tuple[Stages, Stages]:
        """See `ProbabilityPath.at`."""
        noisy, velocities = [], []
        for k, (window, x, epsilon) in enumerate(zip(self.windows, data, noise, strict=True)):
            coarse = enlarge(data[k - 1]) if k else torch.zeros_like(x)
            start = window.start * epsilon + (1 - window.start) * coarse
            end = window.end * epsilon + (1 - window.end) * x
            time = expand_to(t[:, k].to(x.dtype), x)
            noisy.append((1 - time) * start + time * end)
            velocities.append(end - start)
        return tuple(noisy), tuple(velocities)

    def moments(self, t: Tensor, stage_sigmas: Tensor) -> Moments:
        """See `ProbabilityPath.moments`.

        x_k = Up(x_{k−1}) + h with E[Up(x_{k−1})·h] = 0, since Up(mean) is an orthogonal projection. So X and v are sums
        of three uncorrelated parts (ε, the coarse picture, h), and their Gram determinant is a sum of squares.
        """
        start, end = (t.new_tensor([getattr(window, name) for window in self.windows]) for name in ("start", "end"))
        fine = stage_sigmas.square()
        coarse = torch.cat([torch.zeros_like(fine[:1]), fine[:-1]])
        variances = (torch.ones_like(fine), coarse, (fine - coarse).clamp(min=0))
        data = t * (1 - end)
        shares = ((1 - t) * start + t * end, (1 - t) * (1 - start) + data, data)
        rates = (end - start, start - end, 1 - end)
        pairs = [(0, 1), (0, 2), (1, 2)]
        minors = [
            (shares[i] * rates[j] - shares[j] * rates[i]).square() * variances[i] * variances[j] for i, j in pairs
        ]
        return Moments(
            noisy=_sum(a * a * v for a, v in zip(shares, variances, strict=True)),
            cross=_sum(a * b * v for a, b, v in zip(shares, rates, variances, strict=True)),
            velocity=_sum(b * b * v for b, v in zip(rates, variances, strict=True)).expand_as(t),
            gram_root=_sum(minors).sqrt(),
        )

    def told_time(self, t: Tensor, visible: Tensor) -> Tensor:
        """Return one clock for all stages: disjoint intervals, as long as each window s' − e, linear within."""
        lengths = t.new_tensor([window.start - window.end for window in self.windows])
        lengths = lengths / lengths.sum()
        begins = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)[:-1]])
        return torch.where(visible, (begins + t * lengths).clamp(max=1), t)

    def check_grid(self, grid: ScheduleGrid) -> None:
        """Raise CompositionError unless one stage is visible at a time, each to its end."""
        alone = bool((grid.visible.sum(1) == 1).all())
        finished = all(
            bool((grid.t[step][grid.visible[step - 1] & ~grid.visible[step]] == 1).all())
            for step in range(1, grid.num_steps)
        )
        if not (alone and finished):
            raise CompositionError(
                "path pyramidal: expected a schedule that shows one stage at a time, each until t = 1; use "
                "--schedule consecutive"
            )

    def enter_phase(self, stages: Stages, phase: Phase, noise: FreshNoise) -> Stages:
        """Begin the visible stage with α·Up(z) + β·n, β = α·s/√γ, where z is the stage before it."""
        k = int(phase.visible.nonzero().max())
        window, gamma = self.windows[k], self.options.gamma
        renoising = window.keep * window.uncorrected / math.sqrt(gamma)
        entered = window.keep * enlarge(stages[k - 1]) + renoising * block_noise(noise(k), gamma)
        return tuple(entered if index == k else stage for index, stage in enumerate(stages))


def _sum(terms: object) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0)  # type: ignore[misc]


def _check_stages(facts: PathFacts) -> None:
    sizes = [stage.shape[1:] for stage in facts.layout]
    shown = ", ".join("x".join(map(str, size)) for size in sizes)
    if any(len(size) not in (2, 3) for size in sizes):
        raise CompositionError(f"path pyramidal: expected stages of images or clips, got {shown}")
    if not facts.whole_stages and facts.num_stages > 1:
        raise CompositionError(
            "path pyramidal: expected stages that are whole pictures or clips, downsampled; use --decomposition "
            "downsampled"
        )
    if len(set(facts.stage_scales)) > 1:
        raise CompositionError(
            "path pyramidal mixes neighbouring stages, which must have one scale; set flow.standardize=false, or "
            "choose the path by its name: then all stages are divided by one number"
        )
    if len({size[:-2] for size in sizes}) > 1:
        raise CompositionError(
            f"path pyramidal doubles height and width, frame by frame: expected stages of equally many frames, got "
            f"{shown}; give every stage as many as the last, or use --preset cascaded, which may split time"
        )
    for coarse, fine in pairwise(sizes):
        if any(f != 2 * c for c, f in zip(coarse[-2:], fine[-2:], strict=True)):
            raise CompositionError(
                f"path pyramidal: expected every stage twice as high and wide as the one before, got {shown}"
            )
