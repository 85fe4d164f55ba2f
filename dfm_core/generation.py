"""Noise to images or clips, stage by stage: schedule, solver, guidance, previews."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm_core.config.settings import check_interval
from dfm_core.errors import UsageError
from dfm_core.interfaces.backbone import Conditioning
from dfm_core.interfaces.path import Phase, ProbabilityPath
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.preconditioning import VelocityModel
from dfm_core.randomness import derive_generator
from dfm_core.solvers import PhaseEntry, VelocityField, integrate, make_solver
from dfm_core.stage_space import StageSpace
from dfm_core.stages import StageLayout, Stages

CPU_BATCH_MULTIPLE = 4
"""On a CPU, matrix products of a few rows take other kernels and differ in the last bit; multiples of four do not.
Batches are padded to this, so that image i has the same bits whatever the batch size."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance v = v_∅ + weight · (v_c − v_∅), applied to a stage while its t lies in `interval`.

    weight: 1 is none, 0 unconditional. interval: (low, high), 0 <= low <= high <= 1, else UsageError. Method §4.
    """

    weight: float = 1.0
    interval: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self) -> None:
        try:
            check_interval(self.interval)
        except ValueError as error:
            raise UsageError(f"guidance interval (cfg_interval): {error}") from None

    def applies(self, t: Tensor) -> Tensor:
        """Which of the stages at times t (S,) are guided, (S,) bool."""
        return (t >= self.interval[0]) & (t <= self.interval[1]) & (self.weight != 1)


@dataclass(frozen=True)
class GenerationStep:
    """The state after a solver step.

    step: 1…num_steps. t: (S,) float64. stages: all of them, as the flow sees them. num_visible: number of the finest
    visible stage, so of all visible ones where they are a prefix. stage_finished: whether a phase ended with this step,
    so that `preview` is one that the method shows.
    """

    step: int
    num_steps: int
    t: Tensor
    stages: Stages
    num_visible: int
    stage_finished: bool
    space: StageSpace

    def preview(self) -> Tensor:
        """Images of the finest visible stage and those before it, (B, C, H_k, W_k), nominally in [-1, 1].

        Clips: (B, C, T_k, H_k, W_k).
        """
        return self.space.to_images(self.stages[: self.num_visible])


def initial_noise(layout: StageLayout, seed: int, indices: Sequence[int], device: torch.device) -> Stages:
    """Gaussian noise for images or clips `indices`: number i is drawn from (seed, i) on the CPU, wherever it is."""
    generators = [derive_generator(seed, "image", index) for index in indices]
    return tuple(torch.stack([torch.randn(s.shape, generator=g) for g in generators]).to(device) for s in layout)


def phase_entry(path: ProbabilityPath, seed: int, indices: Sequence[int]) -> PhaseEntry:
    """What `path` does where phases change; its fresh noise for image i is drawn from (seed, i, phase) on the CPU."""

    def enter(stages: Stages, phase: Phase) -> Stages:
        def noise(stage_index: int) -> Tensor:
            stage = stages[stage_index]
            generators = (derive_generator(seed, "phase", phase.index, stage_index, image) for image in indices)
            return torch.stack([torch.randn(stage.shape[1:], generator=g) for g in generators]).to(stage)

        return path.enter_phase(stages, phase, noise)

    return enter


def guided_velocity(
    model: VelocityModel,
    labels: Tensor | None,
    null_label: int,
    guidance: Guidance,
    path: ProbabilityPath | None = None,
) -> VelocityField:
    """Return the velocity field of a batch; guidance runs label and no-label in one batch of twice the size.

    path: says at what t of its training the model meets the stages; by default at the schedule's.
    """

    def plain(stages: Stages, t: Tensor, visible: Tensor, labels: Tensor | None) -> Stages:
        batch, device = len(stages[0]), stages[0].device
        t = t if path is None else path.state_time(t, visible)
        expand = (batch, len(t))
        return model(
            stages, t.float().to(device).expand(expand), visible.to(device).expand(expand), Conditioning(labels)
        )

    def velocity(stages: Stages, t: Tensor, visible: Tensor) -> Stages:
        guided = guidance.applies(t) & visible
        if labels is None or not guided.any():
            return plain(stages, t, visible, labels)
        both = torch.cat([labels, torch.full_like(labels, null_label)])
        doubled = plain(tuple(torch.cat([s, s]) for s in stages), t, visible, both)
        pairs = [v.chunk(2) for v in doubled]
        return tuple(
            without + guidance.weight * (with_label - without) if guide else with_label
            for (with_label, without), guide in zip(pairs, guided.tolist(), strict=True)
        )

    return velocity


@torch.no_grad()
def generate(
    model: VelocityModel,
    space: StageSpace,
    grid: ScheduleGrid,
    layout: StageLayout,
    *,
    indices: Sequence[int],
    labels: Sequence[int] | None = None,
    null_label: int = 0,
    seed: int = 0,
    solver: str = "euler",
    guidance: Guidance | None = None,
) -> Iterator[GenerationStep]:
    """Generate images or clips `indices` of `seed`, yielding the state after every solver step.

    labels: one class an index, or None. The bits of image i depend on (seed, i) and its label only (on one CPU).
    """
    device = model.stage_sigmas.device
    wanted = len(indices)
    padded = [*indices, *[indices[-1]] * (-wanted % CPU_BATCH_MULTIPLE if device.type == "cpu" else 0)]
    if labels is not None:
        labels = [*labels, *[labels[-1]] * (len(padded) - wanted)]
    label_tensor = None if labels is None else torch.tensor(labels, device=device)
    noise = initial_noise(layout, seed, padded, device)
    velocity = guided_velocity(model, label_tensor, null_label, guidance or Guidance(), model.path)
    finest = [max(torch.nonzero(row).flatten().tolist()) + 1 for row in grid.visible]
    ends = [*(grid.visible[1:] != grid.visible[:-1]).any(1).tolist(), True]
    for state in integrate(velocity, noise, grid, make_solver(solver), phase_entry(model.path, seed, padded)):
        step = state.step
        yield GenerationStep(
            step=step,
            num_steps=grid.num_steps,
            t=state.t,
            stages=tuple(s[:wanted] for s in state.stages),
            num_visible=finest[step - 1],
            stage_finished=ends[step - 1],
            space=space,
        )


def generate_images(steps: Iterator[GenerationStep]) -> Tensor:
    """Run a generation to its end and return the images (B, C, H, W), clips (B, C, T, H, W), clamped to [-1, 1]."""
    last = None
    for last in steps:  # noqa: B007 (the last state is the result)
        pass
    if last is None:
        raise ValueError("a generation has at least one step")
    return last.preview().clamp(-1, 1)
