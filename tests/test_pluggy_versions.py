"""The plugin host on the lowest and on the newest pluggy that it declares to support."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ["tests/core/test_registry.py", "tests/core/test_hostile_neighbours.py"]
RUN = """
import sys
import pluggy
import pytest
print(pluggy.__version__, pluggy.__file__)
sys.exit(pytest.main(sys.argv[1:]))
"""


def requirement() -> str:
    """What pyproject.toml says of pluggy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(next(line for line in project["dependencies"] if re.match(r"pluggy\b", line)))


def run(*command: str, **variables: str) -> str:
    """Run Python on a command line and return what it printed."""
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **variables},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("which", ["lowest", "newest"])
def test_plugins_work_with(which: str, tmp_path: Path) -> None:
    wanted = requirement().replace(">=", "==") if which == "lowest" else requirement()
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), wanted)
    (installed,) = tmp_path.glob("pluggy-*.dist-info")
    version = installed.name.removeprefix("pluggy-").removesuffix(".dist-info")
    assert which == "newest" or version.startswith(requirement().partition(">=")[2])
    said = run("-c", RUN, "-p", "no:cacheprovider", *TESTS, PYTHONPATH=str(tmp_path))
    assert said.splitlines()[0].split() == [version, str(tmp_path / "pluggy" / "__init__.py")]
    assert re.search(r"\d+ passed", said), said
    assert not re.search(r"failed|error", said)
