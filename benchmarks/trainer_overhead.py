"""What the trainer costs over a bare loop with the same model, data, clipping, optimiser and averaged weights.

    python benchmarks/trainer_overhead.py --blocks 80

The trainer runs as users run it (progress, metrics.jsonl, TensorBoard; losses by t, gradient norms of parameter groups
and utilisation among the numbers, which the bare loop has not). Between its blocks of steps, while it waits for
its next batch, two identical bare loops are timed: the ratio of those two says what can be measured now.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from paired import ratio_of_times, verdict
from rich.console import Console
from torch import Tensor, nn

from dfm_core.config.settings import LoggingSettings, TrainingSettings
from dfm_core.interfaces.timestep_sampler import TimestepDraw
from dfm_core.loss_report import LossReport
from dfm_core.objective import sums_by_t
from dfm_core.randomness import BatchRandomness
from dfm_core.training.progress import RichReporter
from dfm_core.training.run_directory import RunDirectory
from dfm_core.training.trainer import Trainer

BLOCK = 5
TOKENS, WIDTH, DEPTH, BATCH = 64, 128, 6, 4
DECAY = 0.999
PARTS = ("first", "second")


def network() -> nn.Module:
    """A transformer of the size that a CPU can train."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)


@dataclass
class Denoise:
    """Mean squared error of denoising. reports: also its parts, by t, as the objective of a real run."""

    module: nn.Module
    reports: bool

    def __call__(self, batch: dict[str, Tensor], randomness: BatchRandomness) -> LossReport:
        x = batch["image"]
        noise = torch.randn(x.shape, generator=randomness.own("noise", x.device), device=x.device)
        errors = (self.module(x + noise) - x).square().flatten(1).mean(1)
        if not self.reports:
            return LossReport(errors.mean(), errors.new_zeros(2, 0), ())
        t = torch.rand(len(x), len(PARTS), generator=randomness.shared("timesteps")).to(x.device, non_blocking=True)
        trained = t >= 0
        by_t = sums_by_t(errors[:, None].expand_as(t), TimestepDraw(t, trained, trained))
        return LossReport(errors.mean(), by_t.sum(2), PARTS, by_t)


class BareLoop:
    """The loop that one would write by hand."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module = network().to(device)
        self.objective = Denoise(self.module, reports=False)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-4, fused=True)
        self.average = [parameter.detach().clone() for parameter in self.module.parameters()]
        self.step = 0

    def block(self, batch: dict[str, Tensor]) -> float:
        """Seconds of BLOCK steps."""
        start = time.perf_counter()
        for _ in range(BLOCK):
            on_device = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
            self.objective(on_device, BatchRandomness(0, self.step, 0, BATCH, BATCH)).loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            torch._foreach_lerp_(self.average, [p.detach() for p in self.module.parameters()], 1 - DECAY)
            self.step += 1
        synchronize(self.device)
        return time.perf_counter() - start


@dataclass
class InterleavedData:
    """Batches for the trainer; between two blocks of them the bare loops run."""

    loops: tuple[BareLoop, BareLoop]
    device: torch.device
    trainer_times: list[float] = field(default_factory=list)
    bare_times: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))

    def batches(self, _start_step: int) -> Iterator[dict[str, Tensor]]:
        """One block of warm-up, then measured ones."""
        batch = {"image": torch.randn(BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))}
        while True:
            start = time.perf_counter()
            for _ in range(BLOCK):
                yield batch
            synchronize(self.device)
            self.trainer_times.append(time.perf_counter() - start)
            first = len(self.trainer_times) % 2  # the order changes, so that what drifts with time cancels
            for index in (first, 1 - first):
                self.bare_times[index].append(self.loops[index].block(batch))


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(blocks: int, device: torch.device, folder: Path) -> InterleavedData:
    """Train for `blocks` measured blocks and one more to warm up."""
    data = InterleavedData((BareLoop(device), BareLoop(device)), device)
    module = network()
    names = [name for name, _ in module.named_parameters()]
    Trainer(
        module=module,
        objective=Denoise(module, reports=True),
        data=data,
        settings=TrainingSettings(
            max_steps=(blocks + 1) * BLOCK + 1, batch_size=BATCH, ema_decay=DECAY, precision="float32"
        ),
        logging=LoggingSettings(log_every=4 * BLOCK, checkpoint_every=0, sample_every=0),
        run=RunDirectory.create(folder / "run"),
        device=device,
        seed=0,
        snapshot={},
        parameter_groups={f"layer_{i}": [n for n in names if n.startswith(f"layers.{i}.")] for i in range(DEPTH)},
        flops=10**9,
        reporter=RichReporter(Console(file=io.StringIO(), force_terminal=True)),
    ).train()
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=80, help=f"pairs of {BLOCK} steps each")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = measure(arguments.blocks, torch.device(arguments.device), Path(folder))
    trainer, first, second = (times[1:] for times in (data.trainer_times, *data.bare_times))
    ratio, itself = ratio_of_times(trainer, first), ratio_of_times(first, second)
    print(f"a step of the bare loop: {1e3 * sorted(first)[len(first) // 2] / BLOCK:.2f} ms")
    print(f"bare loop over itself:   {itself}")
    print(f"trainer over bare loop:  {ratio}")
    print(verdict(ratio, itself))


if __name__ == "__main__":
    main()
