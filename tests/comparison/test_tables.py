"""Tables and picture of a comparison say what was made: images, or clips."""

from __future__ import annotations

import pytest

from dfm_core.comparison.convergence import floor_name
from dfm_core.comparison.results import MetricTable, Outcome, Results
from dfm_core.comparison.statistics import Spread
from dfm_core.comparison.tables import compute_table, earlier_table, metric_table


@pytest.mark.parametrize(("noun", "one"), [("images", "an image"), ("clips", "a clip")])
def test_what_was_made_is_named(noun: str, one: str) -> None:
    table = MetricTable("motion", "motion", None, "lower", 0.25, 12, {"frames apart": "1, 2"}, (), {})
    results = Results("haar", (0,), 12, {}, (table,), noun)
    assert metric_table(table, results).notes[0] == f"real {noun} against real ones: 0.25 (12 {noun})"
    assert metric_table(table, results).title == "motion (lower is better; frames apart 1, 2)"
    assert f"calls for {one}" in compute_table(results).columns
    assert earlier_table(table, results) is None
    assert floor_name(results) == f"real {noun}"


def test_who_is_ahead_on_the_way_is_told_of_those_that_were_measured() -> None:
    half = (
        Outcome("flow-matching", {0: 4.0, 1: 5.0}, Spread.of([4.0, 5.0]), None, None),
        Outcome("haar", {0: 2.0}, Spread.of([2.0]), Spread.of([-0.7]), None),
    )
    about = {"diverged": []}
    table = MetricTable("fd", "fd", None, "lower", None, None, {}, (), {}, {"1/2": half})
    results = Results(
        "flow-matching", (0, 1), 12, dict.fromkeys(("haar", "cascaded", "flow-matching"), about), (table,)
    )
    told = earlier_table(table, results)
    assert told is not None
    assert told.columns == ("variant", "1/2")
    assert list(told.rows) == [("haar", "-0.700 (1 of 2 seeds)"), ("flow-matching", "reference (4.5 ± 0.71)")]
