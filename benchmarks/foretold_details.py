"""How much of the details is known once the coarse stage is: `python benchmarks/foretold_details.py`.

For each decomposition of the shapes data, 16 → 32 pixels: the details' root mean square, how many of them are next to
nothing, and which share of their variance is foretold by a window of the coarse stage (5 × 5 pixels around each), by
linear regression and by a small network, on images that neither has seen. What is not foretold is what the second stage
has to decide; what a window does not hold, a network must gather from further away. About two minutes on one core.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dfm_core as dfm
from dfm_core.training.data import load_batch

DECOMPOSITIONS: dict[str, dict[str, object]] = {
    "laplacian": {"name": "laplacian"},
    "haar": {"name": "dwt", "options": {"wavelet": "haar"}},
    "db2": {"name": "dwt", "options": {"wavelet": "db2"}},
    "dct": {"name": "dct"},
}
WINDOW = 5
NEXT_TO_NOTHING = 0.05
"""Of the details' root mean square."""
WIDTH, BATCH = 128, 1024


def stages(decomposition: dict[str, object], images: int) -> tuple[Tensor, Tensor]:
    """Coarse and detail stage of images, (N, 3, 16, 16) and (N, 3, 32, 32)."""
    backbone = {"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2, "token_grid": 8}}
    model = dfm.build(stages=[16, 32], decomposition=decomposition, backbone=backbone, device="cpu", seed=0)
    coarse, details = model.composition.space.batch_to_stages(load_batch(model.assembler.dataset(), range(images)))
    return coarse, details


def samples(coarse: Tensor, details: Tensor) -> tuple[Tensor, Tensor]:
    """Windows around each pixel of the coarse stage, and the details in its place: two matrices, a row a pixel."""
    padded = F.pad(coarse, (WINDOW // 2,) * 4, mode="reflect")
    windows = F.unfold(padded, WINDOW).transpose(1, 2).flatten(0, 1)
    step = details.shape[-1] // coarse.shape[-1]
    return windows, F.unfold(details, step, stride=step).transpose(1, 2).flatten(0, 1)


def foretold(predicted: Tensor, true: Tensor) -> float:
    """Share of the variance that a prediction explains: 1 − error / variance."""
    return float(1 - (true - predicted).square().sum() / (true - true.mean(0)).square().sum())


def linear(seen: tuple[Tensor, Tensor], unseen: Tensor) -> Tensor:
    """Predict by least squares."""
    ones = [torch.cat([rows, torch.ones(len(rows), 1)], 1).double() for rows in (seen[0], unseen)]
    ridge = 1e-6 * len(ones[0]) * torch.eye(ones[0].shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(ones[0].T @ ones[0] + ridge, ones[0].T @ seen[1].double())
    return (ones[1] @ weights).float()


def network(seen: tuple[Tensor, Tensor], unseen: Tensor, steps: int) -> Tensor:
    """Predict by a network with two hidden layers, trained on draws from what is seen."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layers = [nn.Linear(seen[0].shape[1], WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, seen[1].shape[1]))
    scale = seen[1].std()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, steps)
    for _ in range(steps):
        drawn = torch.randint(len(seen[0]), (BATCH,), generator=generator)
        optimiser.zero_grad()
        F.mse_loss(model(seen[0][drawn]), seen[1][drawn] / scale).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return scale * model(unseen)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000, help="a sixth of them unseen")
    parser.add_argument("--steps", type=int, default=1000, help="of the network's training")
    arguments = parser.parse_args()
    print(f"{'details of':12} {'rms':>6} {'near zero':>10} {'linear':>7} {'network':>8}")
    for name, decomposition in DECOMPOSITIONS.items():
        coarse, details = stages(decomposition, arguments.images)
        rms = float(details.square().mean().sqrt())
        small = float((details.abs() < NEXT_TO_NOTHING * rms).float().mean())
        held = arguments.images // 6
        seen, unseen = samples(coarse[held:], details[held:]), samples(coarse[:held], details[:held])
        shares = [
            foretold(guess, unseen[1]) for guess in (linear(seen, unseen[0]), network(seen, unseen[0], arguments.steps))
        ]
        print(f"{name:12} {rms:6.3f} {small:10.2f} {shares[0]:7.3f} {shares[1]:8.3f}", flush=True)


if __name__ == "__main__":
    main()
