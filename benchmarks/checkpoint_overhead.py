"""How long a checkpoint keeps the training loop, written on the way or waited for.

    python benchmarks/checkpoint_overhead.py --width 512 --checkpoints 4

A loop of steps as the trainer makes them; every few steps a checkpoint of weights, averages and optimiser state. Its
cost is what the steps take longer than as many steps between checkpoints, in turn with loops that write none.
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


def step_seconds(folder: Path, arguments: argparse.Namespace, every: int, background: bool) -> list[float]:
    """Seconds of every step of one run, what follows a step included."""
    torch.manual_seed(0)
    device, width = torch.device(arguments.device), arguments.width
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    module = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
    data, steps = TimedData(width, device), (arguments.checkpoints + 1) * arguments.every + 1
    trainer = Trainer(
        module=module,
        objective=Denoise(module),
        data=data,
        settings=TrainingSettings(max_steps=steps, batch_size=BATCH, precision="float32"),
        logging=LoggingSettings(
            log_every=steps, checkpoint_every=every, sample_every=0, async_checkpoints=background, tensorboard=False
        ),
        run=RunDirectory.create(folder),
        device=device,
        seed=0,
        snapshot={},
    )
    trainer.train()
    return [after - before for before, after in zip(data.times, data.times[1:], strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--checkpoints", type=int, default=4, help="of a run, beside its last")
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where to write; by default the system's temporary folder")
    arguments = parser.parse_args()
    every = arguments.every
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        kinds = {"waited for": (every, False), "on the way": (every, True), "none": (0, True)}
        seconds = {kind: step_seconds(Path(name) / kind, arguments, *chosen) for kind, chosen in kinds.items()}
        newest = list_checkpoints(Path(name) / "on the way")[-1]
        size = sum(file.stat().st_size for file in newest.iterdir())
    usual = statistics.median(seconds["none"])
    print(f"{size / 1e6:.0f} MB a checkpoint, {1e3 * usual:.1f} ms a step")
    for kind, times in seconds.items():
        # From a step at whose end a checkpoint begins, to the next one of that kind.
        rounds = [times[start : start + every] for start in range(every - 1, len(times) - every, every)]
        pauses = [times[start] - usual for start in range(every - 1, len(times) - every, every)]
        extra = statistics.median(sum(part) - every * statistics.median(part) for part in rounds)
        pause = statistics.median(pauses)
        print(
            f"{kind:>10}: the loop stands {1e3 * pause:7.1f} ms (at most {1e3 * max(pauses):.1f}), costs "
            f"{1e3 * extra:7.1f} ms in all: {extra / INTERVAL:.3%} at one in {INTERVAL:.0f} s"
        )


if __name__ == "__main__":
    main()
