"""How much of the rate of large matrix products a training step reaches, and where the rest goes.

    python benchmarks/matmul_share.py --size S --batch 8 --steps 10
    python benchmarks/matmul_share.py --size S --batch 8 --steps 10 --threads 1 --compile

Linear and attention FLOPs, backward included, over (step time × the rate of 1024×1024 products in this process). Steps
and as much time of products take turns, and the products run twice in every round: the share is the median of the
rounds' ratios. Beside it stands the share of the best single product's rate, which a neighbour lowers for a step of
seconds and hardly ever for a product of milliseconds. The table is what remains of a step when a neighbour takes no
time: each operation of each shape counted with its 10th percentile over all steps, against the best product. It needs
the profiler, whose own cost is in no other number, and which does not see compiled kernels: with --compile there is no
table.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable

import torch
from paired import ratio_of_times, taking_turns
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
    """Calls of `number` products of large matrices. best: FLOPs per second of the fastest of all."""

    def __init__(self, seconds: float) -> None:
        """Make as many as take about `seconds`."""
        generator = torch.Generator().manual_seed(0)
        self._factors = [torch.randn(PRODUCT, PRODUCT, generator=generator) for _ in range(2)]
        self._product = torch.empty(PRODUCT, PRODUCT)
        self.best, self.number = 0.0, 10
        self()
        self.number = max(1, round(seconds * self.best / (2 * PRODUCT**3)))

    @property
    def flops(self) -> int:
        """FLOPs of a call."""
        return self.number * 2 * PRODUCT**3

    def __call__(self) -> None:
        for _ in range(self.number):
            start = time.perf_counter()
            torch.mm(*self._factors, out=self._product)
            self.best = max(self.best, 2 * PRODUCT**3 / (time.perf_counter() - start))


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
    device = torch.device("cpu")
    backbone = {"name": "dit", "options": {"size": arguments.size, "depth": arguments.depth}}
    stepper = Stepper(compose("laplacian", [16, 32], backbone, device), arguments.batch, (32, 32), device)
    flops, heads = stepper.flops(), stepper.heads()
    if arguments.compile:
        stepper.compile()
    products = Products(min(taking_turns({"step": stepper}, 3)["step"]))
    calls = {"products": products, "step": stepper, "products again": products}
    times = taking_turns(calls, arguments.steps)
    print(f"{torch.get_num_threads()} threads; a step {flops / 1e9:.1f} GFLOP, of products {products.flops / 1e9:.1f}")
    print(f"products over themselves: {ratio_of_times(times['products again'], times['products'])}")
    share = ratio_of_times(times["products"], times["step"]) / (products.flops / flops)
    print(f"share of the rate of products: {share}")
    best = flops / min(times["step"]) / products.best
    print(f"best step against best single product ({products.best / 1e9:.1f} GFLOP/s): {best:.3f}")
    if arguments.compile:
        return
    profiles = []
    for _ in range(arguments.steps):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            stepper()
        profiles.append(profiled)
    parts = quiet_times(profiles, arguments.steps, heads)
    quiet = sum(parts.values())
    print(f"share, operations at their 10th percentiles: {flops / quiet / products.best:.3f} ({quiet:.3f} s)")
    print(f"{'part':50} {'ms':>8} {'share':>7}")
    for part, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"{part:50} {1e3 * seconds:8.1f} {seconds / quiet:7.1%}")


if __name__ == "__main__":
    main()
