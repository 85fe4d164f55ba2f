"""The results of a comparison as tables: rows for the console, and a page of markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dfm_core.comparison.results import MetricTable, Outcome, RateGrid, Results
from dfm_core.comparison.statistics import Spread
from dfm_core.students_t import t_quantile


@dataclass(frozen=True)
class Table:
    """A table of texts. title: one line. notes: sentences below it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def compute_table(results: Results) -> Table:
    """What each variant may spend."""
    rows = [
        (
            name,
            " + ".join(map(str, about["steps"])),
            " + ".join(f"{flops:.4g}" for flops in about["flops_per_step"]),
            f"{about['flops']:.4g}",
            str(about["model_calls"]),
            "of the grid" if about["learning_rate"] is None else f"{about['learning_rate']:g}",
        )
        for name, about in results.variants.items()
    ]
    calls = "calls for a clip" if results.noun == "clips" else "calls for an image"
    columns = ("variant", "steps", "FLOPs of a step", "FLOPs", calls, "learning rate")
    return Table("Compute", columns, rows)


def metric_tables(results: Results) -> list[Table]:
    """One table a metric, and before them that of the learning rates, if some were tried."""
    grid = [] if results.rates is None else [rate_table(results.rates)]
    tables = [made(table, results) for table in results.tables for made in (metric_table, earlier_table)]
    return [*grid, *(table for table in tables if table is not None)]


def rate_table(grid: RateGrid) -> Table:
    """The first metric at the end with each learning rate."""
    rates = list(next(iter(grid.values.values())))
    rows = [
        (name, *("-" if (value := values[rate]) is None else f"{value:.4g}" for rate in rates))
        for name, values in grid.values.items()
    ]
    title = f"Learning rates: {grid.metric} at the end with seed {grid.seed}"
    return Table(title, ("variant", *(f"{rate:g}" for rate in rates)), rows)


def metric_table(table: MetricTable, results: Results) -> Table:
    """Values, ratios and verdicts of one metric."""
    rows = [
        (
            outcome.variant,
            write_spread(outcome.spread, outcome.spread.deviation if outcome.spread else None),
            "reference" if outcome.variant == results.reference else write_ratio(outcome.ratio, len(results.seeds)),
            write_verdict(outcome, results),
        )
        for outcome in table.outcomes
    ]
    by = ", ".join(f"{key} {value}" for key, value in table.variant.items())
    title = f"{table.title} ({table.better} is better{'; ' + by if by else ''})"
    columns = ("variant", "mean ± deviation", f"log-ratio to {results.reference} ± standard error", "verdict")
    return Table(title, columns, rows, tuple(notes_of(table, results)))


def earlier_table(table: MetricTable, results: Results) -> Table | None:
    """Ratios and verdicts before the end; None where nothing was measured then."""
    by_name = {part: {outcome.variant: outcome for outcome in outcomes} for part, outcomes in table.earlier.items()}
    names = [name for name in results.variants if any(name in outcomes for outcomes in by_name.values())]
    if not names:
        return None

    def cell(outcome: Outcome | None) -> str:
        if outcome is None or outcome.spread is None:
            return "-"
        if outcome.variant == results.reference:
            return f"reference ({write_spread(outcome.spread, outcome.spread.deviation)})"
        return " ".join(filter(None, [write_ratio(outcome.ratio, len(results.seeds)), outcome.verdict]))

    rows = [(name, *(cell(outcomes.get(name)) for outcomes in by_name.values())) for name in names]
    title = f"{table.title}, on the way: log-ratio to {results.reference} ± standard error, after a part of the budget"
    return Table(title, ("variant", *by_name), rows)


def notes_of(table: MetricTable, results: Results) -> list[str]:
    """What real images or clips score, and when something counts as won."""
    notes = []
    if table.floor is not None:
        noun = results.noun
        notes.append(f"real {noun} against real ones: {table.floor:.4g} ({table.real_images} {noun})")
    count = len(results.seeds)
    if count == 1:
        notes.append("with one seed there is no verdict")
    else:
        notes.append(f"won or lost with {count} seeds: beyond {t_quantile(count - 1):.1f} standard errors")
    if any(outcome.ratio and outcome.ratio.count < count for outcome in table.outcomes):
        notes.append("no verdict where a seed is missing, has diverged, or has no number above 0")
    return notes


def write_spread(spread: Spread | None, error: float | None) -> str:
    """A number with what it scatters by: "0.0421 ± 0.0013"; a dash for none."""
    if spread is None:
        return "-"
    return f"{spread.mean:.4g}" if error is None else f"{spread.mean:.4g} ± {error:.2g}"


def write_ratio(ratio: Spread | None, seeds: int) -> str:
    """A log-ratio with its sign and standard error, and of how many seeds it is, if not of all."""
    if ratio is None:
        return "-"
    less = "" if ratio.count == seeds else f" ({ratio.count} of {seeds} seeds)"
    return (f"{ratio.mean:+.3f}" if ratio.error is None else f"{ratio.mean:+.3f} ± {ratio.error:.3f}") + less


def write_verdict(outcome: Outcome, results: Results) -> str:
    """won, lost, open; which seeds diverged; a dash where nothing can be said."""
    diverged = results.variants[outcome.variant]["diverged"]
    if diverged:
        return f"diverged with seed {', '.join(map(str, diverged))}"
    return outcome.verdict or "-"


def markdown(results: Results) -> str:
    """The results as a page."""
    seeds = ", ".join(map(str, results.seeds))
    head = f"Seeds {seeds}; {results.num} samples of each model; reference {results.reference}."
    tables = [compute_table(results), *metric_tables(results)]
    return "\n\n".join(["# Comparison", head, *map(markdown_table, tables)]) + "\n"


def markdown_table(table: Table) -> str:
    """A heading, the rows, and the notes as a list."""
    lines = [f"## {table.title}", "", _line(table.columns), _line(["---"] * len(table.columns))]
    lines += map(_line, table.rows)
    if table.notes:
        lines += ["", *(f"* {note}" for note in table.notes)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
