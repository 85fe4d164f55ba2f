"""How much of the rate of large matrix products a training step reaches, and where the rest goes.

    python benchmarks/matmul_share.py --size S --batch 8 --steps 10
    python benchmarks/matmul_share.py --size S --batch 8 --steps 10 --threads 1 --compile

Linear and attention FLOPs, backward included, over (step time × the best rate of a 1024×1024 product in this process).
Products are timed before every step. The share is given twice: of whole steps (the best step against the best product,
and the median over steps against the product just before), and of what remains of a step when a neighbour takes no
time: each operation of each shape counted with its 10th percentile over all steps. On a machine that others use, the
second says more. The table is the second, by part; it needs the profiler, whose own cost is in neither, and which does
not see compiled kernels: with --compile there are whole steps only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable

import torch
from step import Stepper, compose
from torch.profiler import ProfilerActivity, profile

PRODUCT = 1024
PARTS = {
    "linear layers": ("mm", "addmm", "bmm", "mkl_linear", "mkldnn_linear"),
    "attention": ("_scaled_dot_product",),
    "GELU": ("gelu",),
    "layer norm": ("native_layer_norm",),
    "optimiser (fused AdamW, no clipping)": ("_fused_adamw_",),
}
HEADS = "heads and rotary positions"
ELEMENTWISE = "modulation, gates, residuals, biases and the rest"


class Products:
    """Products of large matrices; the best rate so far."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._factors = [torch.randn(PRODUCT, PRODUCT, generator=generator) for _ in range(2)]
        self._product = torch.empty(PRODUCT, PRODUCT)
        self.best = 0.0

    def measure(self, seconds: float = 0.3) -> float:
        """FLOPs per second, the best of a few."""
        best, deadline = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            start = time.perf_counter()
            torch.mm(*self._factors, out=self._product)
            best = min(best, time.perf_counter() - start)
        rate = 2 * PRODUCT**3 / best
        self.best = max(self.best, rate)
        return rate


def part_of(name: str, shapes: list[list[int]], heads: int) -> str:
    """Part of a step to which an operation belongs."""
    bare = name.removeprefix("aten::")
    for part, names in PARTS.items():
        if bare in names or (len(names) == 1 and bare.startswith(names[0])):
            return part
    first = shapes[0] if shapes else []
    return HEADS if len(first) >= 4 and heads in first[1:4] else ELEMENTWISE


def quiet_times(steps: Iterable[profile], count: int, heads: int) -> dict[str, float]:
    """Seconds of a step by part: for each operation and shape the 10th percentile, times how often a step has it."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    parts: dict[tuple[str, str], str] = {}
    for profiled in steps:
        for event in profiled.events() or ():
            if not event.name.startswith("aten::"):
                continue
            key = (event.name, str(event.input_shapes))
            times[key].append(event.self_cpu_time_total / 1e6)
            parts[key] = part_of(event.name, event.input_shapes, heads)
    totals: dict[str, float] = defaultdict(float)
    for key, taken in times.items():
        totals[parts[key]] += sorted(taken)[len(taken) // 10] * len(taken) / count
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S", help="size of the transformer")
    parser.add_argument("--depth", type=int, default=None, help="blocks, if not the size's")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--compile", action="store_true", help="compile the network")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device, products = torch.device("cpu"), Products()
    backbone = {"name": "dit", "options": {"size": arguments.size, "depth": arguments.depth}}
    stepper = Stepper(compose("laplacian", [16, 32], backbone, device), arguments.batch, (32, 32), device)
    flops, heads = stepper.flops(), stepper.heads()
    if arguments.compile:
        stepper.compile()
    stepper(), stepper()
    rates, times, profiles = [], [], []
    for _ in range(arguments.steps):
        rates.append(products.measure())
        start = time.perf_counter()
        stepper()
        times.append(time.perf_counter() - start)
        if arguments.compile:
            continue
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            stepper()
        profiles.append(profiled)
    paired = statistics.median(flops / (taken * rate) for taken, rate in zip(times, rates, strict=True))
    print(
        f"{torch.get_num_threads()} threads; best product {products.best / 1e9:.1f} GFLOP/s; a step {flops / 1e9:.1f}"
    )
    print(f"share, best step against best product: {flops / min(times) / products.best:.3f} ({min(times):.3f} s)")
    print(f"share, median of steps against the product before each: {paired:.3f}")
    if arguments.compile:
        return
    parts = quiet_times(profiles, arguments.steps, heads)
    quiet = sum(parts.values())
    print(f"share, operations at their 10th percentiles: {flops / quiet / products.best:.3f} ({quiet:.3f} s)")
    print(f"{'part':50} {'ms':>8} {'share':>7}")
    for part, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"{part:50} {1e3 * seconds:8.1f} {seconds / quiet:7.1%}")


if __name__ == "__main__":
    main()
