"""Judge the samples of a model: of a preset that is trained first, or of a run that is there."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dfm_core as dfm
from dfm_core.model import Model


def make_parser(description: str | None, preset: str, num: int) -> argparse.ArgumentParser:
    """Return a parser of what all such benchmarks can be told. preset, num: defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run's folder; without, a preset is trained")
    parser.add_argument("--preset", default=preset, help=f"what is trained; default: {preset}")
    parser.add_argument("--max-steps", type=int, help="of the training; default: the preset's")
    parser.add_argument("--num", type=int, default=num, help=f"samples; default: {num}")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    return parser


def report(arguments: argparse.Namespace, judge: Callable[[Model], dict[str, float]]) -> None:
    """Train unless there is a run, judge, and print the numbers and the seconds that both took."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or train(arguments, Path(folder) / "run")
        trained = time.perf_counter()
        numbers = judge(dfm.load(run, device="cpu"))
    numbers |= {"training_seconds": trained - started, "judging_seconds": time.perf_counter() - trained}
    if arguments.json:
        print(json.dumps(numbers))
    else:
        print("\n".join(f"{name}: {value:.3f}" for name, value in numbers.items()))


def train(arguments: argparse.Namespace, output: Path) -> Path:
    """Train the preset on the CPU. Return the run's folder."""
    steps = {"max_steps": arguments.max_steps} if arguments.max_steps else {}
    dfm.train(preset=arguments.preset, output=str(output), device="cpu", quiet=arguments.json, **steps)
    return output
