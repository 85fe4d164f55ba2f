"""What the trainer costs over a bare loop with the same model, objective, data, clipping, optimiser and average.

    python benchmarks/trainer_overhead.py --blocks 80

The model is the quickstart's: a DiT of two stages on shapes. The trainer runs as users run it (progress, metrics.jsonl,
TensorBoard; gradient norms of parameter groups and utilisation among the numbers, which the bare loop has not).
Between its blocks of steps, while it waits for its next batch, two identical bare loops are timed: the ratio of those
two says what can be measured now. Exit code 1 if the bound is certainly not held.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from paired import compared
from rich.console import Console
from torch import nn

from dfm_core.assembly import Assembler
from dfm_core.composition import Composition
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.network_facts import parameter_groups, training_flops
from dfm_core.plugins.registry import default_registry
from dfm_core.randomness import BatchRandomness
from dfm_core.runs.start import describe_data
from dfm_core.stage_space import StageStatistics
from dfm_core.training.data import Batch, BatchStream
from dfm_core.training.execution import to_device
from dfm_core.training.progress import RichReporter
from dfm_core.training.run_directory import RunDirectory
from dfm_core.training.trainer import Trainer

BLOCK = 5


@dataclass
class Subject:
    """A model of its own with its data. depth: blocks of the network, None for the quickstart's."""

    device: torch.device
    depth: int | None

    def __post_init__(self) -> None:
        values = {} if self.depth is None else {"backbone": {"options": {"depth": self.depth}}}
        self.config = resolve_config(ConfigRequest(presets=("quickstart",), values=values)).config
        assembler = Assembler(self.config, default_registry())
        dataset, halves = assembler.dataset(), (0.5,) * len(self.config.stages)
        self.composition: Composition = assembler.compose(
            describe_data(dataset), StageStatistics(halves, halves, 1), self.device
        )
        self.network = self.composition.model.backbone
        self.data = BatchStream(dataset, self.config.training.batch_size, self.config.seed)


class BareLoop:
    """The loop that one would write by hand."""

    def __init__(self, subject: Subject) -> None:
        self.device, self.network, training = subject.device, subject.network, subject.config.training
        self.batches = subject.data.batches()
        self.objective = subject.composition.objective()
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=training.learning_rate, fused=True)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.size, self.decay, self.step = training.batch_size, training.ema_decay, 0

    def block(self) -> float:
        """Seconds of BLOCK steps."""
        start = time.perf_counter()
        for batch in islice(self.batches, BLOCK):
            randomness = BatchRandomness(0, self.step, 0, self.size, self.size)
            self.objective(to_device(batch, self.device), randomness).loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - self.decay)
            self.step += 1
        synchronize(self.device)
        return time.perf_counter() - start


@dataclass
class InterleavedData:
    """Batches for the trainer; between two blocks of them the bare loops run. times: seconds of every block."""

    stream: BatchStream
    loops: tuple[BareLoop, BareLoop]
    device: torch.device
    times: dict[str, list[float]] = field(default_factory=lambda: {"trainer": [], "bare loop": [], "again": []})

    def batches(self, _start_step: int) -> Iterator[Batch]:
        """One block of warm-up, then measured ones."""
        batches = self.stream.batches()
        bare = list(zip(("bare loop", "again"), self.loops, strict=True))
        while True:
            start = time.perf_counter()
            yield from islice(batches, BLOCK)
            synchronize(self.device)
            self.times["trainer"].append(time.perf_counter() - start)
            bare.reverse()  # so that what drifts with time cancels
            for name, loop in bare:
                self.times[name].append(loop.block())


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(blocks: int, subjects: list[Subject], folder: Path) -> dict[str, list[float]]:
    """Train for `blocks` measured blocks and one more to warm up. subjects: the trainer's, and one a bare loop."""
    own, composition = subjects[0], subjects[0].composition
    data = InterleavedData(own.data, (BareLoop(subjects[1]), BareLoop(subjects[2])), own.device)
    training = {"max_steps": (blocks + 1) * BLOCK + 1, "precision": "float32", "rate_schedule": "constant"}
    logging = {"checkpoint_every": 0, "sample_every": 0, "validation_every": 0}
    Trainer(
        module=own.network,
        objective=composition.objective(),
        data=data,
        settings=own.config.training.model_copy(update=training),
        logging=own.config.logging.model_copy(update=logging),
        run=RunDirectory.create(folder / "run"),
        device=own.device,
        seed=0,
        snapshot={},
        parameter_groups=parameter_groups(own.network),
        flops=training_flops(own.network, composition.layout, own.config.training.batch_size, True),
        reporter=RichReporter(Console(file=io.StringIO(), force_terminal=True)),
    ).train()
    return {name: times[1 : blocks + 1] for name, times in data.times.items()}


def main() -> int:
    """Measure, print, and tell by the exit code whether the bound holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=80, help=f"rounds of {BLOCK} steps each")
    parser.add_argument("--depth", type=int, default=None, help="blocks of the network, if not the quickstart's")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    subjects = [Subject(torch.device(arguments.device), arguments.depth) for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        times = measure(arguments.blocks, subjects, Path(folder))
    bare = sorted(times["bare loop"])
    print(f"a step of the bare loop: {1e3 * bare[len(bare) // 2] / BLOCK:.2f} ms")
    return int(compared(times, "trainer", "bare loop", "again"))


if __name__ == "__main__":
    sys.exit(main())
