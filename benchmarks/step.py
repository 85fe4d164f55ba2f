"""What DFM costs over plain flow matching: FLOPs, step time, and the share of the decomposition.

    python benchmarks/step.py --size S --batch 2 --pairs 30
    python benchmarks/step.py --size S --batch 2 --pairs 30 --compile

The same network on the same number of tokens, with one stage (`identity`) and with two (`laplacian`). Times are ratios
of interleaved pairs in this process, with the plain model against itself beside them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

import torch
from paired import paired_ratio, verdict

from dfm_core.assembly import Assembler
from dfm_core.composition import Composition, DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.network_facts import training_flops
from dfm_core.plugins.registry import default_registry
from dfm_core.randomness import BatchRandomness
from dfm_core.stage_space import StageStatistics

CLASSES = tuple(map(str, range(1000)))


def compose(decomposition: str, stages: object, backbone: Mapping[str, object], device: torch.device) -> Composition:
    """One model; of `dit`'s, at 256 tokens."""
    values = {"decomposition": decomposition, "stages": stages, "backbone": backbone}
    config = resolve_config(ConfigRequest(values=values)).config
    ones = (0.5,) * len(config.stages)
    statistics = StageStatistics(ones, ones, 1)
    return Assembler(config, default_registry()).compose(DataDescription(3, CLASSES), statistics, device)


class Stepper:
    """A training step without data loading: objective, backward, AdamW. size: of a sample, without channels."""

    def __init__(self, composition: Composition, batch: int, size: tuple[int, ...], device: torch.device) -> None:
        self.objective = composition.objective()
        self.optimizer = torch.optim.AdamW(composition.model.parameters(), lr=1e-4, fused=True)
        self.clean = torch.rand(batch, 3, *size, device=device) * 2 - 1
        self.batch = {"video" if len(size) == 3 else "image": self.clean, "label": torch.arange(batch, device=device)}
        self.composition, self.device, self.count = composition, device, 0

    def __call__(self) -> None:
        self.count += 1
        batch = len(self.clean)
        report = self.objective(self.batch, BatchRandomness(0, self.count, 0, batch, batch))
        report.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def flops(self) -> int:
        """FLOPs of one step: linear layers and attention, forward and backward."""
        return training_flops(self.composition.model.backbone, self.composition.layout, len(self.clean), True)

    def heads(self) -> int:
        """Attention heads of the network."""
        return int(self.composition.model.backbone.options.dimensions.heads)

    def compile(self) -> None:
        """Compile the network, as training does."""
        self.composition.model.backbone.compile()

    def decomposition_seconds(self, repeats: int = 20) -> float:
        """Median time to split one batch."""
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.composition.space.to_stages(self.clean)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return sorted(times)[repeats // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S", help="size of the transformer")
    parser.add_argument("--depth", type=int, default=None, help="blocks, if not the size's")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile both networks")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    full, half = arguments.resolution, arguments.resolution // 2
    backbone = {"name": "dit", "options": {"size": arguments.size, "depth": arguments.depth}}
    plain, staged = (
        Stepper(compose(name, stages, backbone, device), arguments.batch, (full, full), device)
        for name, stages in (("identity", [full]), ("laplacian", [half, full]))
    )

    flops = staged.flops() / plain.flops()
    print(f"FLOPs, two stages over one: {flops:.5f} (bound 1.005: {'held' if flops <= 1.005 else 'NOT HELD'})")
    if arguments.compile:
        plain.compile(), staged.compile()
    itself = paired_ratio(plain, plain, pairs=arguments.pairs)
    print(f"step time, plain over itself: {itself}")
    ratio = paired_ratio(staged, plain, pairs=arguments.pairs)
    print(f"step time, two stages over one: {ratio}")
    print(verdict(ratio, itself))
    start = time.perf_counter()
    staged()
    share = staged.decomposition_seconds() / (time.perf_counter() - start)
    print(f"decomposition: {share:.2%} of a step (bound 2%: {'held' if share < 0.02 else 'NOT HELD'})")


if __name__ == "__main__":
    main()
