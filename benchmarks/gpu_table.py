"""Training speed and memory of a large model on one GPU, as rows of the table in docs/performance.md.

    python benchmarks/gpu_table.py --size XL --batch 32
    python benchmarks/gpu_table.py --device cpu --size Ti --batch 1 --steps 1 --latents 8,16 --no-compile

DiT at 512 pixels: 64×64 latents of 16 channels (random numbers, already encoded), patches of 2, bfloat16, one and two
stages; then two stages with each activation checkpointing. Utilisation is the share of a bfloat16 product of large
matrices measured in the same process. A row that runs out of memory, or cannot be compiled, says so.
"""

from __future__ import annotations

import argparse
import functools
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dfm_core.assembly import Assembler
from dfm_core.bench.step import TrainingStep
from dfm_core.composition import Composition, DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.network_facts import training_flops
from dfm_core.plugins.registry import default_registry
from dfm_core.stage_space import StageStatistics
from dfm_core.training.activations import recompute_activations
from dfm_core.training.utilisation import begin_peak_memory, matmul_rate, peak_memory

CHANNELS = 16
CLASSES = tuple(map(str, range(1000)))
WARM_UP = 3
COLUMNS = ("stages", "compiled", "checkpointing", "batch", "images/s", "utilisation", "peak memory GB", "over none")


@dataclass(frozen=True)
class Row:
    """One configuration. sizes: of the stages, in latents."""

    sizes: tuple[int, ...]
    checkpointing: str
    compiled: bool


@dataclass(frozen=True)
class Measured:
    """seconds: of a step, median. peak: bytes; on a CPU of the whole process so far. note: why there are no numbers."""

    seconds: float | None
    utilisation: float | None
    peak: int | None
    note: str


def rows(latents: list[int], compiled: bool) -> list[Row]:
    """One stage; two, eagerly and compiled; and two with activations computed again."""
    both = tuple(latents)
    ways = [Row(both[-1:], "none", compiled), Row(both, "none", compiled)]
    ways += [Row(both, checkpointing, compiled) for checkpointing in ("selective", "full")]
    return [*ways, Row(both, "none", False)] if compiled else ways


def compose(row: Row, size: str, depth: int | None, device: torch.device) -> Composition:
    """The model of a row. The data is latents already, so that no autoencoder takes time.

    depth: blocks, if not the size's.
    """
    values = {
        "stages": list(row.sizes),
        "decomposition": "identity" if len(row.sizes) == 1 else "laplacian",
        "backbone": {"name": "dit", "options": {"size": size, "depth": depth, "patch_size": 2}},
        "training": {"checkpointing": row.checkpointing},
    }
    config = resolve_config(ConfigRequest(values=values)).config
    ones = (1.0,) * len(row.sizes)
    data = DataDescription(CHANNELS, CLASSES)
    return Assembler(config, default_registry()).compose(data, StageStatistics(ones, ones, 1), device)


def measure(make: Callable[[], Composition], row: Row, batch: int, steps: int, device: torch.device) -> Measured:
    """Time training steps of the model that `make` makes; begins with an empty device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    torch.compiler.reset()
    begin_peak_memory(device)
    try:
        return _measure(make(), row, batch, steps, device)
    except torch.OutOfMemoryError:
        return Measured(None, None, None, "out of memory")
    except Exception as error:
        if not row.compiled:
            raise
        return Measured(None, None, None, "failed: " + next(iter(str(error).splitlines()), type(error).__name__))


def _measure(composition: Composition, row: Row, batch: int, steps: int, device: torch.device) -> Measured:
    backbone = composition.model.backbone
    flops = training_flops(backbone, composition.layout, batch, labelled=True)
    recompute_activations(backbone.shardable_blocks(), row.checkpointing)
    if row.compiled:
        backbone.compile()
    step = TrainingStep(composition.objective(), composition.config.training, 0, device)
    generator = torch.Generator(device).manual_seed(0)
    latents = torch.randn(batch, CHANNELS, *(2 * row.sizes[-1:]), device=device, generator=generator)
    data = {"image": latents, "label": torch.arange(batch, device=device) % len(CLASSES)}
    times = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        step(data, torch.bfloat16)
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[WARM_UP:])
    utilisation = flops / seconds / matmul_rate(device, torch.bfloat16)
    return Measured(seconds, utilisation, peak_memory(device), "")


def written(row: Row, batch: int, measured: Measured, without: float | None) -> list[str]:
    """Cells of a line. without: seconds of the same step without checkpointing."""
    begin = ["+".join(map(str, row.sizes)), "yes" if row.compiled else "no", row.checkpointing, str(batch)]
    if measured.seconds is None or measured.utilisation is None:
        return [*begin, measured.note, "", "", ""]
    peak = "" if measured.peak is None else f"{measured.peak / 1e9:.1f}"
    over = "" if without is None else f"{measured.seconds / without:.3f}"
    return [*begin, f"{batch / measured.seconds:.3g}", f"{measured.utilisation:.1%}", peak, over]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="XL", help="size of the transformer")
    parser.add_argument("--depth", type=int, default=None, help="blocks, if not the size's")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--latents", default="32,64", help="sizes of the two stages, in latents")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", action="store_true")
    chosen = parser.parse_args(arguments)
    device = torch.device(chosen.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rate = matmul_rate(device, torch.bfloat16)
    print(f"DiT-{chosen.size}, {name}, torch {torch.__version__}, bfloat16 products {rate / 1e12:.4g} TFLOP/s")
    print()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    without: dict[tuple[tuple[int, ...], bool], float] = {}
    for row in rows([int(part) for part in chosen.latents.split(",")], not chosen.no_compile):
        make = functools.partial(compose, row, chosen.size, chosen.depth, device)
        measured = measure(make, row, chosen.batch, chosen.steps, device)
        key = (row.sizes, row.compiled)
        if row.checkpointing == "none" and measured.seconds is not None:
            without[key] = measured.seconds
        print("| " + " | ".join(written(row, chosen.batch, measured, without.get(key))) + " |", flush=True)


if __name__ == "__main__":
    main()
