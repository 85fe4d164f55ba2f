"""A fresh virtual environment that sees the packages of this one, so that torch need not be installed again."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment. python: its interpreter. work: the folder in which commands run."""

    python: Path
    work: Path

    def run(self, *arguments: object, cwd: Path | None = None) -> str:
        """Run Python in the environment, which must succeed; its stdout."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DFM_"))}
        done = subprocess.run(
            [str(self.python), *map(str, arguments)],
            cwd=cwd or self.work,
            env=variables | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def dfm(self, *arguments: object) -> str:
        """Run `dfm`; its stdout."""
        return self.run("-m", "dfm_core", *arguments)


def make_environment(folder: Path) -> Environment:
    """Make an environment below `folder`; what the outer one has is seen behind its own packages."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    fresh = Environment(folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python", folder)
    site = Path(fresh.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    outer = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    # addsitedir, not the bare path: editable installs are found through the .pth files there.
    (site / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in outer))
    return fresh
