"""`dfm bench`: what this machine makes of a configuration."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.early_checks import check_data, check_device
from dfm_core.cli.flags import ConfigFlags, resolve_flags
from dfm_core.cli.launch import number_of_processes
from dfm_core.cli.numbers import write_amount, write_bytes
from dfm_core.cli.output import info, print_json, print_table
from dfm_core.errors import UsageError

if TYPE_CHECKING:
    from dfm_core.bench.report import BenchReport, StepTimes


@command
def bench(
    flags: ConfigFlags,
    quick: Annotated[bool, typer.Option("--quick", help="About a minute: nothing is compiled.")] = False,
    json: Json = False,
) -> None:
    """Measure training on this machine.

    A step by part, its share of what matrix products reach, DFM against plain flow matching, eager against compiled
    and bfloat16, and a batch size. Takes the configuration of `dfm train`, and leaves no files.
    """
    if number_of_processes() > 1:
        raise UsageError("bench measures one process, and this is one of several; run it without a launcher")
    config = resolve_flags(flags, check=check_data).config
    check_device(config.device)
    info("preparing data and model …")
    from dfm_core.bench.measure import QUICK, THOROUGH, measure
    from dfm_core.plugins.registry import default_registry

    report = measure(config, default_registry(), QUICK if quick else THOROUGH, info)
    if json:
        print_json(asdict(report))
    else:
        show(report)


def show(report: BenchReport) -> None:
    """Print the tables."""
    machine, step, chosen = report.machine, report.step, report.recommended
    rates = ", ".join(f"{write_amount(rate)}FLOP/s in {name}" for name, rate in machine.matmul_rate.items())
    print(f"{machine.device}, {machine.threads} threads, torch {machine.torch}; matrix products {rates}")
    print()
    print_table(f"A step of {step.batch_size} images, {step.precision}", ["part", "ms", "share"], part_rows(step))
    print()
    print_table("Comparisons", ["what", "value"], comparison_rows(report))
    print()
    columns = ["variant", "images/s", "utilisation", "speed-up", "note"]
    print_table(f"Ways to run it, batch {report.comparison_size}", columns, variant_rows(report))
    print()
    sizes = [(p.batch_size, f"{p.images_per_second:.3g}", write_bytes(p.memory)) for p in report.batch_sizes]
    print_table("Batch sizes", ["batch", "images/s", "memory, estimated"], sizes)
    print()
    print(f"fastest: {report.fastest.name}: {report.fastest.flags}")
    print(f"recommended: --batch-size {chosen.batch_size} ({chosen.why})")


def part_rows(step: StepTimes) -> list[tuple[str, str, str]]:
    """One row a part, and the whole."""
    parts = {**step.parts, "step": step.seconds}
    return [(name, f"{1e3 * seconds:.1f}", f"{seconds / step.seconds:.1%}") for name, seconds in parts.items()]


def comparison_rows(report: BenchReport) -> list[tuple[str, str]]:
    """Throughput and utilisation of the step, and DFM against plain flow matching."""
    step, plain = report.step, report.plain
    rows = [
        ("images/s", f"{step.images_per_second:.3g}"),
        ("utilisation", write_share(step.utilisation)),
        ("memory of a step, estimated", write_bytes(step.memory)),
        *(("left out", reason) for reason in report.left_out),
    ]
    if plain is not None:
        other = ", of other work (see below)" if plain.networks is not None else ""
        rows += [
            (f"time over plain flow matching, batch {report.comparison_size}{other}", str(plain.ratio)),
            ("plain flow matching over itself", str(plain.itself)),
        ]
        if plain.flops is not None:
            rows.append(("FLOPs over plain flow matching", f"{plain.flops:.4f}"))
        if plain.per_flop is not None:
            rows.append(("time for a FLOP over plain flow matching", str(plain.per_flop)))
        if plain.networks is not None:
            rows.append(("the networks differ", f"{plain.networks}; the backbone's options can fix it for both"))
    return rows


def variant_rows(report: BenchReport) -> list[tuple[str, str, str, str, str]]:
    """One row a way to run the step; dashes where it was not measured."""
    return [
        (
            v.name,
            f"{v.images_per_second:.3g}" if v.images_per_second else "-",
            write_share(v.utilisation),
            str(v.speed_up) if v.speed_up else "-",
            v.note,
        )
        for v in report.variants
    ]


def write_share(share: float | None) -> str:
    """Write a share as a percentage, a dash for none."""
    return "-" if share is None else f"{share:.1%}"
