"""Every command of the page about logging runs, in order, made smaller."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_tools import TINY, Dfm, Rejected

from dfm_core.training import sinks

PAGE = Path(__file__).parents[2] / "docs" / "logging.md"
SMALLER = [
    *("--max-steps", "2", "--device", "cpu"),
    *("--set", "logging.log_every=1"),
]
SMALLER_NEW = [
    *("--batch-size", "2"),
    *("--set", "backbone.options.depth=1", "--set", "backbone.options.width=32", "--set", "backbone.options.heads=2"),
    *("--set", "flow.statistics_images=4", "--set", "logging.sample_every=0", "--set", "logging.validation_every=0"),
]


def commands() -> list[str]:
    blocks = PAGE.read_text(encoding="utf-8").split("```bash\n")[1:]
    return [line for block in blocks for line in block.partition("```")[0].strip().splitlines()]


def smaller(arguments: list[str]) -> list[str]:
    """The same command with fewer steps and a shallower network; what it writes and says stays."""
    if arguments[0] != "train":
        return arguments
    return (
        [*arguments, *SMALLER, "--max-steps", "3"] if "--resume" in arguments else [*arguments, *SMALLER, *SMALLER_NEW]
    )


def test_every_command_runs(dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    has_sinks, ran = all(map(find_spec, ("wandb", "trackio"))), 0
    for line in commands():
        name, *arguments = shlex.split(line)
        if name == "export":
            monkeypatch.setenv(*arguments[0].split("=", 1))
        elif has_sinks or "third" not in line:
            assert name == "dfm", f"a command that no test runs: {line}"
            dfm(*smaller(arguments))
            ran += 1
    assert ran >= 5
    assert (tmp_path / "compared.png").is_file()
    assert (tmp_path / "runs" / "first" / "curves.png").is_file()


def test_a_sink_whose_package_is_missing(rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    message = rejected("train", *TINY, "--set", "logging.sinks=wandb", "--output", tmp_path / "run")
    assert message == "logging.sinks: wandb is not installed: pip install 'decomposable-flow-matching[log]'"
    assert not (tmp_path / "run").exists()
    assert "expected 'wandb' or 'trackio', got 'mlflow'" in rejected("train", "--set", "logging.sinks=[mlflow]")
