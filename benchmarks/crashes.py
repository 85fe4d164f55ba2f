"""Kill a run with SIGKILL at random moments: it goes on, and ends with the bits of a run that was never stopped.

    python benchmarks/crashes.py --moments 50

Every second moment is inside the writing of a checkpoint, and every tenth before the first one, from the moment on at
which the run's folder holds its configuration.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file

from dfm_core.training.checkpoint import PARTIAL_PREFIX, list_checkpoints, open_checkpoint
from dfm_core.training.run_directory import CONFIG_FILE

COMMAND = [sys.executable, "-P", "-m", "dfm_core", "train"]
SETTINGS = [
    *("--device", "cpu", "--stages", "8,16", "--batch-size", "4"),
    *("--set", "backbone.options.depth=2", "--set", "backbone.options.width=128", "--set", "backbone.options.heads=2"),
    *("--set", "flow.statistics_images=16", "--set", "logging.checkpoint_every=10", "--set", "logging.log_every=4"),
    *("--set", "logging.sample_every=50", "--set", "sampling.num=2", "--set", "logging.validation_every=0"),
]


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """Start `dfm train` in a session of its own."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run that must end well."""
    _, said = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"exit code {process.returncode}: {said.decode()}")


def wait_until_written(run: Path, process: subprocess.Popen[bytes], early: bool = False) -> None:
    """Wait for the first checkpoint; early: for the configuration."""
    while not ((run / CONFIG_FILE).exists() if early else list_checkpoints(run)) and process.poll() is None:
        time.sleep(0.01)


def is_writing(run: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((run / "checkpoints").glob(f"{PARTIAL_PREFIX}*"))


def kill_at(run: Path, steps: int, delay: float, inside: bool, early: bool, generator: random.Random) -> str:
    """Begin a run and kill it; return what it left."""
    process = start(*SETTINGS, "--max-steps", steps, "--output", run)
    wait_until_written(run, process, early)
    time.sleep(delay)
    while inside and not is_writing(run) and process.poll() is None:
        pass
    time.sleep(generator.uniform(0, 0.02) if inside else 0)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    left = [path.name for path in list_checkpoints(run)] or ["no checkpoint"]
    for path in list_checkpoints(run):
        open_checkpoint(path)  # whatever has its final name is whole
    half = ", one half written" if is_writing(run) else ""
    return f"{'ended' if process.returncode == 0 else 'killed'}, {' and '.join(left)}{half}"


def equal(first: Path, second: Path) -> bool:
    """Whether two runs ended with the same bits."""
    newest = [list_checkpoints(run)[-1] for run in (first, second)]
    if newest[0].name != newest[1].name:
        return False
    names = [f"{name}.safetensors" for name in ("weights", "ema", "optimizer")]
    pairs = [[load_file(path / name) for path in newest] for name in names]
    return all(a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = start(*SETTINGS, "--max-steps", arguments.steps, "--output", folder / "whole")
        wait_until_written(folder / "whole", process)
        begin = time.monotonic()
        finish(process)
        seconds = time.monotonic() - begin
        for moment in range(arguments.moments):
            inside, early = moment % 2 == 1, moment % 10 == 4
            run, delay = folder / "run", generator.uniform(0, 0.05 if early else 0.9 * seconds)
            left = kill_at(run, arguments.steps, delay, inside, early, generator)
            finish(start("--resume", run))
            same = equal(folder / "whole", run)
            failures += not same
            print(f"{moment + 1}: after {delay:.2f} s {left}; {'same bits' if same else 'OTHER BITS'}", flush=True)
            shutil.rmtree(run)
    print(f"{arguments.moments - failures} of {arguments.moments} runs ended with the same bits")
    raise SystemExit(failures > 0)


if __name__ == "__main__":
    main()
