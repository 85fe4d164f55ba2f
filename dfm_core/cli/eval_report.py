"""What `dfm eval` says: how far it is, and the table of results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dfm_core.cli.output import print_json, print_table, warning

if TYPE_CHECKING:
    from dfm_core.evaluation.evaluation import EvaluatedSamples, Evaluation


def reporter(say: Callable[[str], None], noun: str) -> Callable[[int, int], None]:
    """Return a function that tells how far the sampling of this process is, at most every few seconds.

    noun: what is made, "images" or "clips".
    """
    told = time.perf_counter()

    def tell(made: int, total: int) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told > 5 or made == total:
            told = now
            say(f"{made} of {total} {noun}")

    return tell


def report(folder: Path, evaluation: Evaluation, seconds: float, json: bool) -> None:
    """Print the results and where they lie."""
    for message in dict.fromkeys(text for row in evaluation.rows for one in row.results for text in one.warnings):
        warning(message)
    if json:
        print_json({"folder": str(folder), "seconds": seconds, **evaluation.as_dict()})
        return
    noun = evaluation.noun
    columns = ["samples", "metric", "value", "95 % interval", f"real {noun}", "better", noun, "measured by"]
    print_table("", columns, [cells for row in evaluation.rows for cells in row_cells(row)])
    print(f"wrote {folder / 'results.json'} and the grids beside it; {seconds:.1f} s")


def written(value: float) -> str:
    """A number, a dash for what is none."""
    return f"{value:.4g}" if math.isfinite(value) else "-"


def row_cells(row: EvaluatedSamples) -> list[list[str]]:
    """Lines of the table: a metric's own number, and below it those that explain it."""
    lines = []
    for result in row.results:
        variant = ", ".join(f"{key} {value}" for key, value in result.variant.items())
        for number, (name, value) in enumerate(result.values.items()):
            real = "" if result.real is None else f"{result.real.values[name]:.4g}"
            real += f" (of {result.real.images})" if result.real and result.real.images < result.samples else ""
            if number:
                lines.append(["", f"  {name}", written(value), "", real, "", "", ""])
                continue
            between = "" if result.interval is None else " … ".join(f"{bound:.4g}" for bound in result.interval)
            images = f"{result.samples} / {result.reference}"
            lines.append([row.title, name, written(value), between, real, result.better, images, variant])
    return lines
