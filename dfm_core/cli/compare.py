"""`dfm compare`: variants trained for the same compute, measured against each other."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.encode import ignore
from dfm_core.cli.interrupt import INTERRUPTED, termination_as_interrupt
from dfm_core.cli.launch import Nproc, is_first_process, is_launcher, launch, number_of_processes, work_alone
from dfm_core.cli.numbers import read_counts, write_amount
from dfm_core.cli.output import console, info, output_options, print_json, print_table, warning
from dfm_core.errors import DFMError, UsageError

if TYPE_CHECKING:
    from dfm_core.comparison.config import ComparisonConfig
    from dfm_core.comparison.plan import Plan
    from dfm_core.comparison.results import Results
    from dfm_core.comparison.tables import Table
    from dfm_core.config.resolve import ConfigRequest
    from dfm_core.training.progress import Reporter

DEFAULT_ROOT = Path("comparisons")

Seeds = Annotated[
    str | None,
    typer.Option(help="Train each variant with these seeds: 0,1,2.", metavar="SEEDS", show_default="the file's"),
]
Only = Annotated[
    list[str] | None, typer.Option(help="Train and measure only this variant; may be repeated.", metavar="VARIANT")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print each variant's steps and FLOPs, and stop.")]


@command
def compare(
    file: Annotated[Path, typer.Argument(help="YAML file of a comparison.", metavar="FILE")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the comparison.", metavar="PATH", show_default="comparisons/<name of the file>"),
    ] = None,
    seeds: Seeds = None,
    only: Only = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", show_default="the file's")
    ] = None,
    nproc: Nproc = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Train variants for the same compute, and compare them.

    Writes results.json, results.md and convergence.png. The same command goes on where it was stopped.
    """
    from dfm_core.comparison.config import read_comparison
    from dfm_core.config.resolve import ConfigRequest, Flag

    settings = read_comparison(file)
    request = ConfigRequest(flags=() if device is None else (Flag("--device", "device", device),))
    folder = output or DEFAULT_ROOT / file.stem
    run_comparison(settings, request, folder, read_seeds(seeds), only or (), nproc, dry_run, json)


def read_seeds(text: str | None) -> tuple[int, ...] | None:
    """Read "0,1,2"; None stays. Raises UsageError."""
    seeds = read_counts(text, "--seeds")
    if seeds is not None and (min(seeds) < 0 or len(set(seeds)) < len(seeds)):
        raise UsageError(f"--seeds: expected numbers of at least 0, each once, got {text}")
    return None if seeds is None else tuple(seeds)


def run_comparison(
    settings: ComparisonConfig,
    request: ConfigRequest,
    folder: Path,
    seeds: tuple[int, ...] | None,
    only: Sequence[str],
    nproc: int | None,
    dry_run: bool,
    json: bool,
) -> None:
    """Plan, train, measure and report; or print the plan only."""
    if not dry_run and is_launcher(nproc) and nproc is not None:
        raise typer.Exit(launch(nproc, alone=True))
    first, several = is_first_process(), number_of_processes() > 1
    if first:
        info("preparing variants …")
    from dfm_core.comparison.plan import RECORD, check_same, make_plan, read_record, record_of, take_up
    from dfm_core.comparison.results import as_data, collect
    from dfm_core.comparison.runner import Comparison
    from dfm_core.comparison.training import TrainingInterrupted
    from dfm_core.devices import resolve_device
    from dfm_core.plugins.registry import default_registry
    from dfm_core.training.distributed import own_device
    from dfm_core.training.progress import make_reporter

    registry = default_registry()
    plan = make_plan(settings, registry, request, seeds, warning if first else ignore)
    if several and not dry_run:
        plan = plan.on_device(lambda device: str(own_device(resolve_device(device))))
        work_alone()

    def reporter() -> Reporter:
        return make_reporter(output_options().quiet or not first, console=console(stderr=True))

    def keep(comparison: Comparison) -> None:
        if first:
            write(folder, collect(comparison))

    comparison = Comparison(folder, plan, registry, reporter, info, warning, keep)
    if first:
        warn_of_fewer_seeds(folder, plan.seeds)
    if dry_run:
        if (folder / RECORD).is_file():
            check_same(folder, read_record(folder / RECORD), record_of(plan))
        if first:
            show_plan(plan, collect(comparison), json)
        return
    comparison.check(only)
    take_up(folder, plan)
    try:
        with termination_as_interrupt():
            comparison.run(only)
    except (KeyboardInterrupt, TrainingInterrupted):
        keep(comparison)
        if first:
            print(f"stopped; what is finished lies in {folder}, and the same command goes on", flush=True)
        raise typer.Exit(INTERRUPTED) from None
    if not first:
        return
    results = collect(comparison)
    write(folder, results)
    if json:
        print_json({"folder": str(folder), **as_data(results)})
    else:
        report(folder, results)


def warn_of_fewer_seeds(folder: Path, seeds: Sequence[int]) -> None:
    """Warn where the tables that are there are of more seeds than those that are about to be written."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        before = json_module.loads((folder / "results.json").read_text(encoding="utf-8"))["seeds"]
        if others := sorted(set(before) - set(seeds)):
            every = ",".join(map(str, sorted({*before, *seeds})))
            warning(
                f"the tables in {folder} are also of seed {', '.join(map(str, others))}: --seeds {every} keeps them"
            )


def show_plan(plan: Plan, results: Results, json: bool) -> None:
    """Print what a comparison would do."""
    from dfm_core.comparison.tables import compute_table

    if json:
        points = {name: [point.step for point in schedule.points] for name, schedule in plan.schedules.items()}
        print_json({"reference": plan.reference, "seeds": plan.seeds, "variants": results.variants, "points": points})
        return
    show(compute_table(results))
    trainings = {variant.training for variant in plan.variants.values()}
    tried = 0 if plan.rates == (None,) else len(plan.rates) - (plan.rate_seed in plan.seeds)
    count = len(trainings) * (len(plan.seeds) + tried)
    flops = sum(plan.schedules[name].total for name in trainings) * (len(plan.seeds) + tried)
    print(
        f"{counted(count, 'training')} of {counted(len(plan.variants), 'variant')}, {write_amount(flops)}FLOPs in all"
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 training", "3 trainings"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def write(folder: Path, results: Results) -> None:
    """Write results.json, results.md and, where something was measured, convergence.png. Raises DFMError."""
    from dfm_core.comparison.convergence import plot_convergence
    from dfm_core.comparison.results import as_data
    from dfm_core.comparison.tables import markdown
    from dfm_core.latent_shards import write_json
    from dfm_core.pictures.figures import save_figure
    from dfm_core.training.run_directory import replace_text

    try:
        write_json(folder / "results.json", as_data(results))
        replace_text(folder / "results.md", markdown(results))
        if results.tables:
            save_figure(plot_convergence(results), folder / "convergence.png")
    except OSError as error:
        raise DFMError(
            f"cannot write the tables into {folder}: {error.strerror or error}. Is the disk full? What is measured "
            "stays, and the same command goes on"
        ) from error


def report(folder: Path, results: Results) -> None:
    """Print all tables and where they lie."""
    from dfm_core.comparison.tables import compute_table, metric_tables

    for table in (compute_table(results), *metric_tables(results)):
        show(table)
        print()
    print(f"wrote results.json, results.md, convergence.png and the samples' grids in {folder}")


def show(table: Table) -> None:
    """Print a table and its notes."""
    print_table(table.title, table.columns, table.rows)
    for note in table.notes:
        print(note)
