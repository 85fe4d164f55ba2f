"""What DFM costs over the same video transformer on the same tokens: FLOPs and step time.

    python benchmarks/video_step.py --size S --frames 8 --batch 1 --pairs 30
    python benchmarks/video_step.py --in-time --attention factorised

`video_dit` with one stage (`identity`: no decomposition, one clock, one head) and with two (`laplacian`). In
every round the plain model steps twice and the one with two stages once: times are ratios within the rounds. Exit code
1 if the bound is certainly not held.
"""

from __future__ import annotations

import argparse
import sys

import torch
from paired import compared, taking_turns
from step import Stepper, compose


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and tell by the exit code whether the bound holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S", help="size of the transformer")
    parser.add_argument("--depth", type=int, default=None, help="blocks, if not the size's")
    parser.add_argument("--attention", default="full", choices=["full", "factorised"])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--in-time", action="store_true", help="the first stage has half the frames, too")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    fine = (arguments.frames, arguments.resolution, arguments.resolution)
    coarse = (fine[0] // 2 if arguments.in_time else fine[0], fine[1] // 2, fine[2] // 2)

    plain, staged = (
        Stepper(compose(name, stages, network(arguments, coarse), device), arguments.batch, fine, device)
        for name, stages in (("identity", [fine]), ("laplacian", [coarse, fine]))
    )
    tokens = [stepper.composition.model.backbone.describe()["tokens"] for stepper in (plain, staged)]
    if tokens[0] != tokens[1]:
        raise SystemExit(f"expected the same tokens, got {tokens[0]} with one stage and {tokens[1]} with two")
    flops = staged.flops() / plain.flops()
    print(f"tokens: {tokens[0]}; FLOPs, two stages over one: {flops:.5f}")
    times = taking_turns({"plain": plain, "plain again": plain, "two stages": staged}, arguments.pairs)
    return int(compared(times, "two stages"))


def network(arguments: argparse.Namespace, coarse: tuple[int, ...]) -> dict[str, object]:
    """The backbone, with patches that give one stage as many tokens as two."""
    options = {"size": arguments.size, "depth": arguments.depth, "attention": arguments.attention}
    return {"name": "video_dit", "options": {**options, "temporal_patch": arguments.frames // coarse[0]}}


if __name__ == "__main__":
    sys.exit(main())
