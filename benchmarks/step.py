"""What DFM costs over plain flow matching: FLOPs, step time, and the share of the decomposition.

    python benchmarks/step.py --size S --batch 2 --pairs 30
    python benchmarks/step.py --size S --batch 2 --pairs 30 --compile

The same network on the same number of tokens, with one stage (`identity`) and with two (`laplacian`). In every round
the plain model steps twice, the one with two stages once, and a batch is split: times are ratios within the rounds.
Exit code 1 if a bound is certainly not held.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

import torch
from paired import compared, ratio_of_times, taking_turns

from dfm_core.assembly import Assembler
from dfm_core.composition import Composition, DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.network_facts import training_flops
from dfm_core.plugins.registry import default_registry
from dfm_core.randomness import BatchRandomness
from dfm_core.stage_space import StageStatistics

FLOPS_BOUND, SHARE_BOUND = 1.005, 0.02
SPLITS = 5
"""Batches that are split one after the other, since one takes too little time for the clock."""
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

    def split(self) -> None:
        """Split the batch, SPLITS times."""
        for _ in range(SPLITS):
            self.composition.space.to_stages(self.clean)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main() -> int:
    """Measure, print, and tell by the exit code whether the bounds hold."""
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
    held = flops <= FLOPS_BOUND
    print(f"FLOPs, two stages over one: {flops:.5f} (bound {FLOPS_BOUND}: {'held' if held else 'NOT HELD'})")
    if arguments.compile:
        plain.compile(), staged.compile()
    times = taking_turns(
        {"plain": plain, "plain again": plain, "two stages": staged, "split": staged.split}, arguments.pairs
    )
    over = compared(times, "two stages")
    share = ratio_of_times([seconds / SPLITS for seconds in times["split"]], times["two stages"])
    small = share.low < SHARE_BOUND
    print(f"decomposition, share of a step: {share} (bound {SHARE_BOUND}: {'held' if small else 'NOT HELD'})")
    return int(over or not held or not small)


if __name__ == "__main__":
    sys.exit(main())
