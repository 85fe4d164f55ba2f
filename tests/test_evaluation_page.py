"""Every command of docs/evaluation.md runs, in their order, in one folder, made smaller."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfm_core.cli.app import main
from dfm_core.evaluation.defaults import default_metrics
from dfm_core.plugins.registry import Registry

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
SMALLER = {
    "train": [
        *("--max-steps", "2", "--batch-size", "2", "--device", "cpu", "--set", "flow.statistics_images=2"),
        *("--set", "backbone.options.depth=1", "--set", "backbone.options.width=32"),
        *("--set", "backbone.options.heads=2", "--set", "logging.tensorboard=false"),
    ],
    "sample": ["--num", "6", "--steps", "1,1"],
    "eval": ["--device", "cpu"],
}
QUICK = {
    "swd": ["patches=4", "directions=8"],
    "fd": ["steps=3", "resamples=3"],
    "spectrum": ["resamples=3"],
    "motion": ["resamples=3"],
}


def smaller(arguments: list[str]) -> list[str]:
    """The same command with little work; of an evaluation, what it writes and says stays."""
    added = [*arguments, *SMALLER[arguments[0]]]
    if arguments[0] != "eval":
        return added
    defaults = default_metrics(medium="video" if "runs/moving" in arguments else "image")
    named = arguments[arguments.index("--metrics") + 1].split(",") if "--metrics" in arguments else defaults
    added += [part for metric in named for value in QUICK[metric] for part in ("--set", f"{metric}.{value}")]
    if "--samples" not in arguments:
        added += ["--num", "6", "--reference-num", "8", "--steps", "1,1"]
    return added


def test_commands_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    Path("photos").mkdir()
    for index in range(6):
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(f"photos/{index}.png")
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL) for line in block.splitlines()
    ]
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "dfm"
        assert main(smaller(arguments)) == 0, f"{line}\n{capsys.readouterr().err}"
    assert len(lines) == 12
    assert {path.name for path in Path("runs/moving/evaluation/0001").iterdir()} == {
        *("grid_cfg_1.png", "grid_cfg_1.gif"),
        "results.json",
    }
    assert Path("evaluations/0002/grid_samples.gif").is_file()
    assert sorted(path.name for path in Path("runs/first/evaluation").iterdir()) == [
        *("0001", "0002", "0003", "0004"),
        "samples",
    ]
    assert {path.name for path in Path("runs/first/evaluation/0002").iterdir()} == {
        *("grid_cfg_1.png", "grid_cfg_1.5.png"),
        "results.json",
    }
    assert Path("evaluations/0001/results.json").is_file()


def test_the_page_says_what_the_defaults_are() -> None:
    registry, text = Registry.discover({}), PAGE.read_text()
    assert default_metrics() == ["swd", "spectrum", "fd"]
    assert default_metrics(medium="video") == ["swd", "spectrum", "fd", "motion"]
    for name in registry.names("metric"):
        assert f"`{name}`" in text
    swd = registry.get("metric", "swd").spec.options()
    assert (swd.patches, swd.directions, swd.images) == (128, 512, 2048)  # type: ignore[attr-defined]
    assert registry.get("metric", "fd").spec.options().steps == 400  # type: ignore[attr-defined]
