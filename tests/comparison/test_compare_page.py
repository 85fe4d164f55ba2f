"""Every command of docs/compare.md is one: planned on shallower networks, and refused by nothing."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from comparison_files import shortened, write

from dfm_core.cli.app import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compare.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.strip().splitlines()]


@pytest.fixture
def examples(tmp_path: Path) -> None:
    """The examples, where the page says they are, with two variants each (another test plans them all)."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for path in (tmp_path / "examples").rglob("*.yaml"):
        values = shortened(path)
        if "variants" in values:
            values["variants"] = dict([*values["variants"].items()][:2])
        write(path, values)


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_planned(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = shlex.split(line)[1:]
    dry = [] if "--dry-run" in arguments else ["--dry-run"]
    depth = ["--set", "backbone.options.depth=1"] if arguments[0] == "ablate" else []
    assert main([*arguments, *dry, *depth, "--device", "cpu", "--quiet"]) == 0, capsys.readouterr().err
    assert re.search(r"\d+ trainings? of \d+ variants?, ", capsys.readouterr().out)


def test_the_page_names_what_is_there() -> None:
    named = set(re.findall(r"`(paper-[\w-]+)`", PAGE))
    presets = {path.stem for path in (ROOT / "dfm_plugins" / "presets" / "paper").glob("*.yaml")}
    assert named <= presets
    table = PAGE[PAGE.index("## Ablations") : PAGE.index("## The paper's rows")]
    files = {name for line in table.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line)}
    assert files == {path.stem for path in (ROOT / "examples" / "ablations").glob("*.yaml")}
    assert len(COMMANDS) == 8
