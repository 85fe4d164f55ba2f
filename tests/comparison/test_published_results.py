"""Results under docs/results are those of the examples, of these files and of nothing else, and can be gone on with."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from dfm_core.comparison.config import read_comparison
from dfm_core.comparison.plan import make_plan, take_up
from dfm_core.comparison.results import as_data, collect
from dfm_core.comparison.runner import Comparison
from dfm_core.comparison.statistics import Spread
from dfm_core.comparison.tables import markdown, write_spread
from dfm_core.plugins.registry import default_registry
from dfm_core.training.progress import QuietReporter

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results" / "README.md").read_text()
FOLDERS = sorted(path for path in (ROOT / "docs" / "results").iterdir() if path.is_dir())


def test_the_quick_comparison_takes_the_rates_that_were_chosen() -> None:
    """In all else the two files are the same, as another test holds."""
    published = json.loads((ROOT / "docs" / "results" / "compare_rates" / "results.json").read_text())["variants"]
    quick = yaml.safe_load((ROOT / "examples" / "compare_quick.yaml").read_text())
    taken = {
        name: {**quick["base"]["training"], **variant.get("training", {})}["learning_rate"]
        for name, variant in quick["variants"].items()
    }
    assert taken == {name: about["learning_rate"] for name, about in published.items()}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_page_has_the_numbers_of_the_tables(folder: Path) -> None:
    tables = json.loads((folder / "results.json").read_text())["metrics"]
    section = next(part for part in PAGE.split("\n## ") if f"`{folder.name}`" in part)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    names = list(tables[0]["variants"])
    for name in names:
        expected = []
        for table in tables:
            found = table["variants"][name]
            spread = Spread(found["spread"]["mean"], found["spread"]["deviation"], found["spread"]["seeds"])
            verdict = found["verdict"] if found["verdict"] in ("won", "lost") else ""
            expected.append(f"{write_spread(spread, spread.deviation)} {verdict}".strip())
        assert [name, *expected] in rows
    assert ["real images", *(f"{table['real']['value']:.4g}" for table in tables)] in rows
    for link in re.findall(r"\]\((\S+?)\)", section):
        assert (ROOT / "docs" / "results" / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_tables_follow_from_the_measurements(folder: Path, tmp_path: Path) -> None:
    published = json.loads((folder / "results.json").read_text())
    settings = read_comparison(ROOT / "examples" / f"{folder.name}.yaml")
    plan = make_plan(settings, default_registry(), seeds=tuple(published["seeds"]))
    own = tmp_path / folder.name
    shutil.copytree(folder, own)
    take_up(own, plan)  # which refuses what was measured with other values
    comparison = Comparison(own, plan, default_registry(), QuietReporter, lambda message: None, lambda message: None)
    results = collect(comparison)
    assert as_data(results) == published
    assert markdown(results) == (folder / "results.md").read_text()
    # Of every variant the same seeds were measured at every point.
    for table in published["metrics"]:
        for name, curve in table["curves"].items():
            assert all(set(point["values"]) == {*map(str, published["seeds"])} for point in curve), name
