"""`dfm ablate`: one variant for each value of some keys, by the machinery of `dfm compare`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.compare import DryRun, Only, Seeds, read_seeds, run_comparison
from dfm_core.cli.flags import ConfigFlags, config_request
from dfm_core.cli.launch import Nproc
from dfm_core.cli.numbers import read_numbers
from dfm_core.errors import UsageError

if TYPE_CHECKING:
    from dfm_core.comparison.config import ComparisonConfig

DEFAULT_ROOT = Path("ablations")


@command
def ablate(
    flags: ConfigFlags,
    file: Annotated[Path | None, typer.Argument(help="YAML file of an ablation.", metavar="FILE")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="A key and its values; may be repeated, for every combination.", metavar="KEY=V1,V2,…"),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Take the n-th values of all keys together: no grid.")
    ] = False,
    reference: Annotated[
        str | None, typer.Option(help="Variant to compare with.", metavar="VARIANT", show_default="the first")
    ] = None,
    seeds: Seeds = None,
    only: Only = None,
    metrics: Annotated[str | None, typer.Option(help="Which metrics.", metavar="NAMES")] = None,
    num: Annotated[int | None, typer.Option(help="Samples of each model.", min=2)] = None,
    points: Annotated[int | None, typer.Option(help="Times that a model is measured.", min=1)] = None,
    cfg: Annotated[str | None, typer.Option(help="Guidance weights, each measured.", metavar="WEIGHTS")] = None,
    any_calls: Annotated[
        bool, typer.Option("--any-calls", help="Variants may call the network differently often for an image.")
    ] = False,
    nproc: Nproc = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Compare values of some keys of a configuration.

    Values that only generation reads share one training. --max-steps are of the reference; the others take as many
    FLOPs.
    """
    from dfm_core.comparison.config import ComparisonConfig, read_comparison
    from dfm_core.comparison.sweep import read_sweep
    from dfm_core.plugins.validation import validate

    if (file is None) == (sweep is None):
        raise UsageError("expected either a FILE or --sweep KEY=V1,V2,…")
    if flags.seed is not None:
        raise UsageError("--seed: an ablation has several, give --seeds")
    settings = (
        read_comparison(file) if file is not None else validate(ComparisonConfig, {"sweep": read_sweep(sweep or ())})
    )
    evaluation = {
        "metrics": None if metrics is None else [name.strip() for name in metrics.split(",")],
        "num": num,
        "points": points,
        "cfg": read_numbers(cfg, "--cfg"),
    }
    given = {name: value for name, value in evaluation.items() if value is not None}
    changed = {
        "evaluation": {**settings.evaluation.model_dump(), **given},
        **({"together": True} if together else {}),
        **({"reference": reference} if reference is not None else {}),
        **({"model_calls": "any"} if any_calls else {}),
        **({"budget": {}} if flags.max_steps is not None else {}),
    }
    settings = validate(ComparisonConfig, {**settings.model_dump(), **changed})
    folder = Path(flags.output) if flags.output else DEFAULT_ROOT / (file.stem if file else name_of(settings))
    request = config_request(dataclasses.replace(flags, output=None))
    run_comparison(settings, request, folder, read_seeds(seeds), only or (), nproc, dry_run, json)


def name_of(settings: ComparisonConfig) -> str:
    """Name of the folder of a sweep: its keys."""
    from dfm_core.comparison.sweep import short_key

    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(map(short_key, settings.sweep or {})))
