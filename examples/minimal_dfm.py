"""Decomposable Flow Matching in one file: two stages, a bilinear Laplacian pyramid, a small network, 16x16 pictures.

Everything that the framework makes replaceable is spelled out here once, with nothing but PyTorch. Run it:

    python examples/minimal_dfm.py --steps 2000 --output minimal.png

t = 0 is noise, t = 1 is data; stage 1 is the coarse one. Equation numbers are the paper's.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

SIZES = (8, 16)  # resolution of each stage
SIGMAS = (0.6, 0.1)  # root mean square of each stage over the data


def pictures(batch: int, generator: torch.Generator) -> Tensor:
    """Discs of random place, size and colour on a random background, (batch, 3, 16, 16) in [-1, 1]."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
    place = torch.rand(batch, 2, 1, 1, generator=generator) - 0.5
    radius = 0.3 + 0.3 * torch.rand(batch, 1, 1, generator=generator)
    inside = torch.sigmoid(20 * (radius - torch.hypot(y - place[:, 0], x - place[:, 1])))[:, None]
    front, back = (2 * torch.rand(batch, 3, 1, 1, generator=generator) - 1 for _ in range(2))
    return inside * front + (1 - inside) * back


def up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


def decompose(x: Tensor) -> list[Tensor]:
    """A Laplacian pyramid (eq. 2): the average of 2x2 pixels, and what its upsampling lacks."""
    coarse = F.avg_pool2d(x, 2)
    return [coarse, x - up(coarse)]


def recompose(stages: list[Tensor]) -> Tensor:
    return stages[0] if len(stages) == 1 else up(stages[0]) + stages[1]


def draw_timesteps(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One timestep a stage and the mask of active stages, each (batch, 2): section 3.3."""
    both = torch.rand(batch, generator=generator) < 0.3  # the paper's images: 0.1
    normal = torch.randn(batch, 2, generator=generator)
    first = torch.where(both, torch.sigmoid(1.5 + normal[:, 0]), torch.sigmoid(normal[:, 0]))
    second = torch.where(both, torch.sigmoid(normal[:, 1]), torch.zeros(()))
    return torch.stack([first, second], 1), torch.stack([torch.ones_like(both), both], 1)


class Network(nn.Module):
    """A small convolutional network on the 8x8 grid; stage 2 enters and leaves through 2x2 patches (section 3.4)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.enter = nn.ModuleList([nn.Conv2d(3, width, 1), nn.Conv2d(3, width, 2, stride=2)])
        self.place = nn.Parameter(0.02 * torch.randn(1, width, 8, 8))
        self.time = nn.ModuleList(
            [nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width)) for _ in SIZES]
        )
        self.blocks = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(6)])
        self.leave = nn.ModuleList([nn.Conv2d(width, 3, 1), nn.ConvTranspose2d(width, 3, 2, stride=2)])

    def forward(self, noisy: list[Tensor], t: Tensor, active: Tensor) -> list[Tensor]:
        mask = active.float()[:, :, None, None, None]
        h = self.place + sum(enter(x) * mask[:, s] for s, (enter, x) in enumerate(zip(self.enter, noisy, strict=True)))
        waves = t[:, :, None] * torch.pi * torch.arange(1, 9)
        waves = torch.cat([waves.sin(), waves.cos()], 2)
        condition = sum(time(waves[:, s]) * mask[:, s, :, 0, 0] for s, time in enumerate(self.time))[:, :, None, None]
        for block in self.blocks:
            h = h + F.silu(block(F.group_norm(h, 8) + condition))
        return [leave(h) for leave in self.leave]


def velocity(network: Network, noisy: list[Tensor], t: Tensor, active: Tensor) -> list[Tensor]:
    """The network between the scalings that give it inputs and targets of unit variance (appendix A.1)."""
    at = [t[:, s, None, None, None] for s in range(2)]
    variance = [(at[s] * SIGMAS[s]) ** 2 + (1 - at[s]) ** 2 for s in range(2)]
    outputs = network([noisy[s] / variance[s].sqrt() for s in range(2)], t, active)
    linear = [(at[s] * SIGMAS[s] ** 2 - (1 - at[s])) / variance[s] * noisy[s] for s in range(2)]
    return [linear[s] + SIGMAS[s] / variance[s].sqrt() * outputs[s] for s in range(2)]


def loss(network: Network, x: Tensor, generator: torch.Generator) -> Tensor:
    """Masked velocity error, summed over the active stages (eqs. 3 and 4)."""
    data = decompose(x)
    noise = [torch.randn(stage.shape, generator=generator) for stage in data]
    t, active = draw_timesteps(len(x), generator)
    at = [t[:, s, None, None, None] for s in range(2)]
    noisy = [at[s] * data[s] + (1 - at[s]) * noise[s] for s in range(2)]
    velocities = velocity(network, noisy, t, active)
    errors = [(velocities[s] - (data[s] - noise[s])).square().flatten(1).mean(1) for s in range(2)]
    return sum(error * active[:, s] for s, error in enumerate(errors)).mean()


def schedule(steps: tuple[int, int] = (30, 10), threshold: float = 0.9) -> Tensor:
    """Timesteps of a generation, (steps + 1, 2): stage 1 to the threshold, then both to 1 (figure 2a)."""
    first = torch.cat([torch.linspace(0, threshold, steps[0] + 1), torch.linspace(threshold, 1, steps[1] + 1)[1:]])
    second = torch.cat([torch.zeros(steps[0]), torch.linspace(0, 1, steps[1] + 1)])
    return torch.stack([first, second], 1)


@torch.no_grad()
def generate(network: Network, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Euler steps along the schedule. Returns the 8x8 preview at the end of phase 1 and the 16x16 pictures."""
    stages = [torch.randn(num, 3, size, size, generator=generator) for size in SIZES]
    grid, preview = schedule(), stages[0]
    for now, then in pairwise(grid):
        active = torch.tensor([True, bool(then[1] > 0)]).expand(num, 2)
        if active[0, 1] and now[1] == 0:
            preview = recompose(stages[:1])
        velocities = velocity(network, stages, now.expand(num, 2), active)
        stages = [stages[s] + (then[s] - now[s]) * velocities[s] for s in range(2)]
    return preview, recompose(stages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output", default="minimal.png")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.steps)
    for step in range(1, arguments.steps + 1):
        value = loss(network, pictures(32, generator), generator)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        rate.step()
        if step % 100 == 0 or step == arguments.steps:
            print(f"step {step}: loss {value.item():.3f}")
    preview, images = generate(network, 8, generator)
    real = pictures(8, generator)
    rows = [F.interpolate(preview, scale_factor=2), images, real]  # preview, generated, real
    sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1).clamp(-1, 1)
    pixels = ((sheet + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).resize((8 * 64, 3 * 64), Image.Resampling.NEAREST).save(arguments.output)
    print(f"wrote {arguments.output}: previews, generated pictures, real pictures")


if __name__ == "__main__":
    main()
