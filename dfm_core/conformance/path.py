"""Laws of probability paths. Each takes a path built for its facts, and pictures or clips x (B, 1, *size), float64."""

from __future__ import annotations

import torch
from torch import Tensor

from dfm_core.conformance.global_randomness import under_two_seeds
from dfm_core.conformance.law import LawBroken, Measurement, at_most, law
from dfm_core.conformance.path_examples import (
    accepted_grids,
    entries,
    noise_for,
    sigmas_of,
    stages_of,
    times,
    walked,
)
from dfm_core.interfaces.path import Moments, ProbabilityPath
from dfm_core.stages import Stages

TIMES = (0.0, 0.2, 0.5, 0.9, 1.0)
STEP = 1e-4
SLACK = 0.01
"""Relative error allowed to moments: those of paths that are linear in the noise are met to 1e-12."""
ENTRY_SLACK = 0.05
"""The same where fresh noise enters: five standard errors of 65,000 numbers, and a little."""


@law("path")
def noisy_stages_have_the_form_of_the_data(path: ProbabilityPath, x: Tensor) -> Measurement:
    """Noisy stages and velocities have the data's shapes and dtype; what comes in is not changed."""
    for dtype in (torch.float32, torch.float64):
        data = stages_of(path, x[:3].to(dtype))
        noise = noise_for(data, "form")
        t = times(path, 3, 0.3).float()
        kept = [tensor.clone() for tensor in (*data, *noise, t)]
        for what, stages in zip(("noisy stages", "velocities"), path.at(data, noise, t), strict=True):
            want = [(tuple(stage.shape), stage.dtype) for stage in data]
            got = [(tuple(stage.shape), stage.dtype) for stage in stages]
            if want != got:
                raise LawBroken(f"{what}: expected {want}, got {got}")
        if not all(torch.equal(a, b) for a, b in zip(kept, (*data, *noise, t), strict=True)):
            raise LawBroken("`at` changes what it is given; make new tensors")
    return Measurement()


@law("path")
def velocity_is_the_derivative(path: ProbabilityPath, x: Tensor) -> Measurement:
    """The velocity of each stage is the derivative of its noisy tensor in t."""
    data = stages_of(path, x[:8])
    noise = noise_for(data, "derivative")
    worst = 0.0
    for time in (0.1, 0.5, 0.9):
        ahead, behind = (walked(path, data, noise, times(path, 8, time + h))[0] for h in (STEP, -STEP))
        _, velocities = walked(path, data, noise, times(path, 8, time))
        slopes = tuple((a - b) / (2 * STEP) for a, b in zip(ahead, behind, strict=True))
        worst = max(worst, _change(slopes, velocities))
    return at_most(
        worst, 1e-5, f"the velocity is off the derivative of the noisy stages by {worst:.2g} (relative, at most 1e-5)"
    )


@law("path")
def leads_from_noise_to_data(path: ProbabilityPath, x: Tensor) -> Measurement:
    """At t = 0 the first stage is its noise, at t = 1 the last one is its data."""
    data = stages_of(path, x[:8])
    noise = noise_for(data, "ends")
    start, end = (walked(path, data, noise, times(path, 8, t))[0] for t in (0.0, 1.0))
    for what, error in (
        ("stage 1 at t = 0 is not its noise", _change(noise[:1], start[:1])),
        ("the last stage at t = 1 is not its data", _change(data[-1:], end[-1:])),
    ):
        at_most(error, 1e-9, f"{what}, relative error {error:.2g}; generation could not begin or would not end there")
    return Measurement(0.0, 1e-9)


@law("path")
def samples_are_independent(path: ProbabilityPath, x: Tensor) -> Measurement:
    """A sample's noisy stages and velocities depend on its own data, noise and timesteps only."""
    data = stages_of(path, x[:4])
    noise = noise_for(data, "samples")
    t = torch.linspace(0.1, 0.9, 4, dtype=torch.float64)[:, None].repeat(1, path.facts.num_stages)
    together = walked(path, data, noise, t)
    alone = walked(path, tuple(s[:1] for s in data), tuple(s[:1] for s in noise), t[:1])
    change = max(_change(tuple(s[:1] for s in many), one) for many, one in zip(together, alone, strict=True))
    return at_most(change, 1e-12, f"a sample's noisy stages change with the others' by {change:.2g}")


@law("path")
def nothing_else_is_random(path: ProbabilityPath, x: Tensor) -> Measurement:
    """The same arguments give the same stages, and no global random state is read or changed."""
    data = stages_of(path, x[:4])
    noise = noise_for(data, "random")
    grid = accepted_grids(path)[0]

    def run() -> list[Tensor]:
        noisy, velocities = walked(path, data, noise, times(path, 4, 0.4))
        return [*noisy, *velocities, *(stage for entry in entries(path, grid, data, noise) for stage in entry.stages)]

    first, again = under_two_seeds(run, "walking the path")
    if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise LawBroken("two walks with the same arguments differ; use the noise that is given, and keep no state")
    return Measurement()


@law("path")
def moments_are_those_of_the_path(path: ProbabilityPath, x: Tensor) -> Measurement:
    """E[X²], E[v·X] and E[v²] of what `at` returns are what `moments` says, and the Gram root follows from them."""
    data = stages_of(path, x)
    noise = noise_for(data, "moments")
    opposite = tuple(-n for n in noise)  # so that data and noise are exactly uncorrelated
    worst = 0.0
    for time in TIMES:
        t = times(path, len(x), time)
        pairs = [walked(path, data, n, t) for n in (noise, opposite)]
        told = path.moments(t[0], sigmas_of(data))
        for index in range(len(data)):
            (n1, v1), (n2, v2) = ((noisy[index], velocity[index]) for noisy, velocity in pairs)
            measured = [float((a + b).mean() / 2) for a, b in ((n1 * n1, n2 * n2), (n1 * v1, n2 * v2), (v1**2, v2**2))]
            worst = max(worst, _check_moments(told, measured, index, time))
    return Measurement(worst, SLACK)


@law("path")
def told_time_is_a_clock(path: ProbabilityPath, x: Tensor) -> Measurement:
    """What the network is told instead of t lies in [0, 1], and grows with the t of a visible stage."""
    num_stages = path.facts.num_stages
    grid = torch.linspace(0, 1, 21)
    for stage in range(num_stages):
        visible = torch.zeros(21, num_stages, dtype=torch.bool)
        visible[:, stage] = True
        told = path.told_time(torch.where(visible, grid[:, None], 0.0), visible)
        if tuple(told.shape) != (21, num_stages) or bool(((told < 0) | (told > 1)).any()):
            raise LawBroken(
                f"told_time: expected (21, {num_stages}) in [0, 1], got {tuple(told.shape)}, {told.aminmax()}"
            )
        slowest = float(told[:, stage].diff().min())
        if slowest <= 0:
            raise LawBroken(f"stage {stage + 1}: told_time does not grow with t (by {slowest:g} in 1/20); make it")
    return Measurement()


@law("path")
def phases_begin_where_training_was(path: ProbabilityPath, x: Tensor) -> Measurement:
    """The visible stages with which a phase begins have the moments that training gave them at their `state_time`."""
    data = stages_of(path, x)
    noise = noise_for(data, "generation")
    worst = 0.0
    for grid in accepted_grids(path):
        for entry in entries(path, grid, data, noise):
            trained, _ = walked(path, data, noise_for(data, "training"), entry.t.expand(len(x), -1))
            for index in entry.phase.visible.nonzero().flatten().tolist():
                worst = max(
                    worst, _check_entry(entry.stages[index], trained[index], data[index], index, entry.phase.index)
                )
    return Measurement(worst, ENTRY_SLACK)


def _check_moments(told: Moments, measured: list[float], index: int, time: float) -> float:
    """Largest error of the moments of one stage, relative to the second moments. Raises LawBroken."""
    noisy, cross, velocity = (float(part[index]) for part in (told.noisy, told.cross, told.velocity))
    sizes = (measured[0], (measured[0] * measured[2]) ** 0.5, measured[2])
    errors = [
        abs(a - b) / max(size, 1e-12) for a, b, size in zip((noisy, cross, velocity), measured, sizes, strict=True)
    ]
    if told.gram_root is not None:
        root = max(measured[0] * measured[2] - measured[1] ** 2, 0.0) ** 0.5
        errors.append(abs(float(told.gram_root[index]) - root) / sizes[1])
    if max(errors) > SLACK:
        names = ("noisy", "cross", "velocity", "gram_root")
        worst = names[errors.index(max(errors))]
        raise LawBroken(
            f"stage {index + 1} at t = {time:g}: moments().{worst} is off by {max(errors):.2g} (relative, at most "
            f"{SLACK}); measured E[X²], E[v·X], E[v²]: {', '.join(f'{value:.4g}' for value in measured)}",
            Measurement(max(errors), SLACK),
        )
    return max(errors)


def _check_entry(stage: Tensor, trained: Tensor, data: Tensor, index: int, phase: int) -> float:
    """Largest relative error of E[X²] and E[X·data] where a phase begins. Raises LawBroken."""
    power = float(trained.square().mean())
    reference = (power * float(data.square().mean())) ** 0.5
    errors = {
        "mean square": abs(float(stage.square().mean()) - power) / power,
        "correlation with the data": abs(float((stage * data).mean() - (trained * data).mean())) / reference,
    }
    what, error = max(errors.items(), key=lambda item: item[1])
    if error > ENTRY_SLACK:
        raise LawBroken(
            f"phase {phase + 1}, stage {index + 1}: its {what} is off by {error:.2g} of what training had there "
            f"(at most {ENTRY_SLACK}); make enter_phase and state_time lead to where `at` was",
            Measurement(error, ENTRY_SLACK),
        )
    return error


def _change(before: Stages, after: Stages) -> float:
    """Largest difference, relative to the largest value; infinite where something is not finite."""
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        difference = float((a - b).abs().max()) / max(float(a.abs().max()), 1e-12)
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst
