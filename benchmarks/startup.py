"""How long `dfm --help` and `dfm plugins list` take, against importing the libraries that they stand on.

Every round runs each command once, in turn, so that a busy moment hits all of them. Printed: the median of each, its
ratio to the imports, and the ratio of the imports to themselves, which shows how far chance moves a ratio. Bytecode is
kept, as it is where `dfm` is installed, even if PYTHONDONTWRITEBYTECODE is set.
Exit code 1 if a ratio is above the bound.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

IMPORTS = "import typer, rich, pydantic, pluggy, yaml"
COMMANDS = {
    "imports": ["-c", IMPORTS],
    "imports again": ["-c", IMPORTS],
    "dfm --help": ["-m", "dfm_core", "--help"],
    "dfm plugins list": ["-m", "dfm_core", "plugins", "list"],
}
BOUND = 3.0


def measure(arguments: list[str]) -> float:
    """Seconds that a fresh interpreter takes. Raises CalledProcessError if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def measure_all(rounds: int) -> dict[str, list[float]]:
    """Seconds of every command in every round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for round_index in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            seconds = measure(arguments)
            if round_index:
                times[name].append(seconds)
    return times


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Median over the rounds of each command's time over the imports' of the same round."""
    base = times["imports"]
    return {
        name: statistics.median(own / reference for own, reference in zip(values, base, strict=True))
        for name, values in times.items()
        if name != "imports"
    }


def main() -> int:
    """Measure, print, and tell by the exit code whether the bound holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times = measure_all(options.rounds)
    found = ratios(times)
    slow = [name for name in ("dfm --help", "dfm plugins list") if found[name] > BOUND]
    if options.json:
        medians = {name: statistics.median(values) for name, values in times.items()}
        print(json.dumps({"seconds": medians, "ratios": found, "bound": BOUND, "holds": not slow}, indent=2))
    else:
        for name, values in times.items():
            ratio = f"{found[name]:5.2f}x" if name in found else "  1   "
            print(f"{name:18} {statistics.median(values) * 1000:6.0f} ms  {ratio}")
        print(f"bound {BOUND:g}x: {'broken by ' + ', '.join(slow) if slow else 'holds'}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
