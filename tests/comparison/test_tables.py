"""Tables and picture of a comparison say what was made: images, or clips."""

from __future__ import annotations

import pytest

from dfm_core.comparison.convergence import floor_name
from dfm_core.comparison.results import MetricTable, Results
from dfm_core.comparison.tables import compute_table, metric_table


@pytest.mark.parametrize(("noun", "one"), [("images", "an image"), ("clips", "a clip")])
def test_what_was_made_is_named(noun: str, one: str) -> None:
    table = MetricTable("motion", "motion", None, "lower", 0.25, 12, {"frames apart": "1, 2"}, (), {})
    results = Results("haar", (0,), 12, {}, (table,), noun)
    assert metric_table(table, results).notes[0] == f"real {noun} against real ones: 0.25 (12 {noun})"
    assert metric_table(table, results).title == "motion (lower is better; frames apart 1, 2)"
    assert f"calls for {one}" in compute_table(results).columns
    assert floor_name(results) == f"real {noun}"
