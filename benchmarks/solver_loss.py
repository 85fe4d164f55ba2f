"""What a solver's steps cost in contrast: `python benchmarks/solver_loss.py`.

A Gaussian with the second moments of the shapes data has a velocity in closed form, so no network is at fault: the flow
is walked with the solvers and the schedule of generation, and the power that arrives is compared with the data's, in
decibels, octave by octave and for the mean of each image (its brightness and colour). About a minute.
"""

from __future__ import annotations

import argparse
import math
import os
from itertools import pairwise

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

import dfm_core as dfm
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.solvers import SOLVERS, integrate
from dfm_core.stages import Stages
from dfm_core.training.data import load_batch

EDGES = (math.inf, 1 / 4, 1 / 8, 1 / 16, 0.0)
"""Of the octaves, in cycles per pixel, as in the metric `spectrum`."""


def plan(steps: int, images: int) -> tuple[ScheduleGrid, Tensor]:
    """The schedule of plain flow matching on standardised images of 32 pixels, and the images (N, 3, 32, 32)."""
    backbone = {"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2, "token_grid": 8}}
    model = dfm.build(
        preset="flow-matching",
        stages=[32],
        backbone=backbone,
        flow={"standardize": True},
        stage_schedule={"options": {"steps": [steps]}},
        device="cpu",
        seed=0,
    )
    (images_seen,) = model.composition.space.batch_to_stages(load_batch(model.assembler.dataset(), range(images)))
    return model.composition.grid, images_seen.double()


def variances(images: Tensor) -> Tensor:
    """Variances (H, W, C) of the data's uncorrelated parts: principal colours of every frequency."""
    waves = torch.fft.fft2(images - images.mean(0), norm="ortho")
    colours = torch.einsum("nchw,ndhw->hwcd", waves, waves.conj()) / len(images)
    return torch.linalg.eigvalsh(colours).clamp_min(1e-9)


def arriving(variance: Tensor, grid: ScheduleGrid, solver: str) -> Tensor:
    """Variances after generation, of parts that are drawn with `variance`: noise is one, and the flow is linear."""

    def velocity(stages: Stages, t: Tensor, _visible: Tensor) -> Stages:
        signal, noise = t[0], 1 - t[0]
        return ((signal * variance - noise) / (signal**2 * variance + noise**2) * stages[0],)

    *_, last = integrate(velocity, (torch.ones_like(variance),), grid, SOLVERS[solver]())
    return last.stages[0].square()


def octaves(arrived: Tensor, variance: Tensor) -> list[float]:
    """Decibels of what arrived over what there is: by octave from the highest, and of the mean."""
    height, width = variance.shape[:2]
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :])
    masks = [(radius > low) & (radius <= high) for high, low in pairwise(EDGES)] + [radius == 0]
    return [10 * math.log10(arrived[mask].sum() / variance[mask].sum()) for mask in masks]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="+", default=[40, 80, 160], help="of the network for an image")
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    header = "".join(f"{f'octave {number}':>10}" for number in range(1, len(EDGES)))
    print(f"{'solver':9} {'calls':>5}{header}{'mean':>10}")
    for name, solver in SOLVERS.items():
        for calls in arguments.calls:
            grid, images = plan(calls // solver.calls_per_step, arguments.images)
            variance = variances(images)
            decibels = octaves(arriving(variance, grid, name), variance)
            print(f"{name:9} {calls:5}" + "".join(f"{value:10.2f}" for value in decibels))


if __name__ == "__main__":
    main()
