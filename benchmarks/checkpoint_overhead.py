"""How long a checkpoint keeps the training loop, written on the way or waited for.

    python benchmarks/checkpoint_overhead.py --width 512 --rounds 4
    torchrun --nproc-per-node 2 benchmarks/checkpoint_overhead.py --parallel fsdp

A loop of steps as the trainer makes them; every few steps a checkpoint of weights, averages and optimiser state. Its
cost is what the steps from one checkpoint to the next take longer than as many times their median. Loops of all kinds
take turns, two that write none among them: what those two cost says what can be measured now.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dfm_core.config.settings import LoggingSettings, TrainingSettings
from dfm_core.loss_report import LossReport
from dfm_core.randomness import BatchRandomness
from dfm_core.training.checkpoint import list_checkpoints
from dfm_core.training.distributed import World, joined_world
from dfm_core.training.run_directory import RunDirectory
from dfm_core.training.trainer import Trainer

TOKENS, DEPTH, BATCH = 64, 6, 4
INTERVAL = 300.0
"""Seconds between checkpoints for which the share is printed."""


@dataclass
class Denoise:
    """Mean squared error of denoising."""

    module: nn.Module

    def __call__(self, batch: dict[str, Tensor], randomness: BatchRandomness) -> LossReport:
        x = batch["image"]
        noise = torch.randn(x.shape, generator=randomness.own("noise", x.device), device=x.device)
        loss = (self.module(x + noise) - x).square().mean()
        return LossReport(loss, loss.detach().expand(2, 1), ("whole",))


@dataclass
class TimedData:
    """The same batch for ever, and the time at which each was asked for."""

    width: int
    device: torch.device
    times: list[float] = field(default_factory=list)

    def batches(self, _start_step: int) -> Iterator[dict[str, Tensor]]:
        """Yield it once a step."""
        batch = {"image": torch.randn(BATCH, TOKENS, self.width, generator=torch.Generator().manual_seed(0))}
        while True:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())
            yield batch


def step_seconds(
    folder: Path, arguments: argparse.Namespace, world: World, every: int, background: bool
) -> list[float]:
    """Seconds of every step of one run, what follows a step included."""
    torch.manual_seed(0)
    width = arguments.width
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    module = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
    data, steps = TimedData(width, world.device), (arguments.checkpoints + 1) * arguments.every + 1
    trainer = Trainer(
        module=module,
        objective=Denoise(module),
        data=data,
        settings=TrainingSettings(
            max_steps=steps, batch_size=BATCH * world.size, precision="float32", parallel=arguments.parallel
        ),
        logging=LoggingSettings(
            log_every=steps, checkpoint_every=every, sample_every=0, async_checkpoints=background, tensorboard=False
        ),
        run=RunDirectory(Path(world.once(lambda: str(RunDirectory.create(folder).path)))),
        device=world.device,
        seed=0,
        snapshot={},
        world=world,
        blocks=list(module.layers),
    )
    trainer.train()
    return [after - before for before, after in zip(data.times, data.times[1:], strict=False)]


def costs(times: list[float], every: int) -> list[tuple[float, float]]:
    """Seconds that the loop stood, and that it lost in all, at each checkpoint of one run, or where one would be."""
    usual = statistics.median(times)
    # From a step at whose end a checkpoint begins, to the next one of that kind.
    rounds = [times[start : start + every] for start in range(every - 1, len(times) - every, every)]
    return [(part[0] - usual, sum(part) - every * statistics.median(part)) for part in rounds]


def measure(arguments: argparse.Namespace, world: World, folder: Path) -> None:
    """Run all kinds in turn, the order turned round each time, and print what each costs."""
    every = arguments.every
    kinds = {"waited for": (every, False), "on the way": (every, True), "none": (0, True), "none again": (0, True)}
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    steps: list[float] = []
    for number in range(arguments.rounds):
        for kind in list(kinds)[:: 1 if number % 2 == 0 else -1]:
            times = step_seconds(folder / f"{kind} {number}", arguments, world, *kinds[kind])
            found[kind] += costs(times, every)
            steps += times if kind == "none" else []
    if not world.is_first:
        return
    size = sum(file.stat().st_size for file in list_checkpoints(folder / "on the way 0")[-1].iterdir())
    shared = f", {world.size} processes ({arguments.parallel})" if world.size > 1 else ""
    print(f"{size / 1e6:.0f} MB a checkpoint, {1e3 * statistics.median(steps):.1f} ms a step{shared}")
    for kind, pairs in found.items():
        stands, extra = ([1e3 * pair[index] for pair in pairs] for index in (0, 1))
        low, middle, high = statistics.quantiles(extra, n=4)
        print(
            f"{kind:>10}: the loop stands {statistics.median(stands):7.1f} ms (at most {max(stands):.1f}), loses "
            f"{middle:7.1f} ms in all (quartiles {low:.1f} to {high:.1f}): {middle / 1e3 / INTERVAL:.3%} at one in "
            f"{INTERVAL:.0f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=4, help="runs of each kind")
    parser.add_argument("--checkpoints", type=int, default=2, help="of a run, beside its last")
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parallel", default="ddp", choices=("ddp", "fsdp"), help="where torchrun starts several")
    parser.add_argument("--folder", type=Path, help="where to write; by default the system's temporary folder")
    arguments = parser.parse_args()
    with (
        joined_world(torch.device(arguments.device)) as world,
        tempfile.TemporaryDirectory(dir=arguments.folder) as own,
    ):
        measure(arguments, world, Path(world.once(lambda: own)))


if __name__ == "__main__":
    main()
