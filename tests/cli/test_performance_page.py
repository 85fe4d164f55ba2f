"""Every command of the page about performance runs, made smaller; its scripts are the ones under benchmarks/."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

import pytest
from command_tools import Dfm

from dfm_core.bench import measure

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
NETWORK = [
    "--set",
    "backbone.options.depth=1",
    "--set",
    "backbone.options.width=32",
    "--set",
    "backbone.options.heads=2",
]
SMALLER_DFM = ["--device", "cpu", "--batch-size", "2", *NETWORK]
SMALLER = {
    "step.py": ["--size", "Ti", "--depth", "1", "--batch", "1", "--pairs", "2"],
    "matmul_share.py": ["--size", "Ti", "--depth", "1", "--batch", "1", "--steps", "1"],
    "gpu_table.py": [
        *("--size", "Ti", "--depth", "1", "--batch", "1", "--steps", "1", "--device", "cpu", "--latents", "4,8"),
        "--no-compile",
    ],
    "trainer_overhead.py": ["--blocks", "2", "--depth", "1"],
    "checkpoint_overhead.py": ["--width", "16", "--checkpoints", "1", "--rounds", "2", "--every", "3"],
}
"""Later flags win; nothing is compiled, which takes minutes."""


def commands() -> list[list[str]]:
    blocks = PAGE.read_text(encoding="utf-8").split("```bash\n")[1:]
    return [shlex.split(line) for block in blocks for line in block.partition("```")[0].strip().splitlines()]


def test_every_dfm_command_runs(dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    effort = measure.Effort(seconds=0.1, step_seconds=0.05, steps=(1, 2), compiles=False)
    monkeypatch.setattr(measure, "QUICK", effort)
    monkeypatch.setattr(measure, "THOROUGH", effort)
    monkeypatch.chdir(tmp_path)
    ran = [dfm(*arguments, *SMALLER_DFM) for name, *arguments in commands() if name == "dfm"]
    assert len(ran) >= 3


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=[pytest.mark.slow] if "overhead" in name else []) for name in SMALLER]
)
def test_every_script_runs(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module(script.removesuffix(".py"))
    monkeypatch.setattr(sys, "argv", [script, *SMALLER[script]])
    module.main()
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_all_scripts_of_the_page_are_run() -> None:
    named = [arguments[1] for arguments in commands() if arguments[0] == "python"]
    assert named
    assert {name.removeprefix("benchmarks/") for name in named} <= set(SMALLER)
    assert all(name.startswith("benchmarks/") and (ROOT / name).is_file() for name in named)


def test_rows_of_the_gpu_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    table = importlib.import_module("gpu_table")
    made = table.rows([32, 64], True)
    assert [(row.sizes, row.checkpointing, row.compiled) for row in made] == [
        ((64,), "none", True),
        ((32, 64), "none", True),
        ((32, 64), "selective", True),
        ((32, 64), "full", True),
        ((32, 64), "none", False),
    ]
    failed = table.Measured(None, None, None, "out of memory")
    assert table.written(made[1], 32, failed, None) == ["32+64", "yes", "none", "32", "out of memory", "", "", ""]
    good = table.Measured(0.5, 0.43, 20 * 10**9, "")
    assert table.written(made[2], 32, good, 0.4)[4:] == ["64", "43.0%", "20.0", "1.250"]
