"""`benchmarks/data.py`, made small: it runs, and says what an image costs."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest


def test_it_says_what_an_image_costs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    benchmark = importlib.import_module("data")
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    monkeypatch.setattr(benchmark, "PHOTO", (128, 96))
    flags = ["--sizes", "16", "--batch-size", "2", "--seconds", "0.005", "--step-ms", "60"]
    monkeypatch.setattr(sys, "argv", ["data.py", *flags])
    benchmark.main()
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["data", "set", "size", "us/image", "of", "step"]
    names = ["shapes plain", "shapes weak", "shapes hard", "folder 128x96 jpeg"]
    assert [re.match(r"(.+?) +16 +\d+ +\d+\.\d%$", row)[1] for row in rows] == names  # type: ignore[index]
    assert last.startswith("batches of 2 shapes at 16 px, 0 workers: ")
