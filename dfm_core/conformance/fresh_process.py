"""Call a function in a new Python process: what a worker, or tomorrow's session, finds."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dfm_core.plugins.registry import Registry, default_registry, registry_session

_SHOWN = 2000


class FreshProcessError(Exception):
    """The function raised, or the process ended. reason: in one line; the message holds what was said there."""

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(f"{reason}\n{said}")
        self.reason = reason


def call_fresh(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what `function` (of a module) gives for picklable arguments in a new process on as many threads.

    The plugin files of the default registry are known there. Nothing is imported from the working directory, and the
    caller's main module is not run again. Raises FreshProcessError.
    """
    files = [record.info.address for record in default_registry().plugins() if record.info.file is not None]
    with tempfile.TemporaryDirectory() as folder:
        call, result = Path(folder, "call"), Path(folder, "result")
        pickled = pickle.dumps((function, arguments))
        call.write_bytes(pickle.dumps((torch.get_num_threads(), files, pickled)))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, str(call), str(result)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if not result.exists():
            raise FreshProcessError(f"it ended with exit code {done.returncode}", done.stderr[-_SHOWN:])
        returned, *answer = pickle.loads(result.read_bytes())
    if not returned:
        raise FreshProcessError(*answer)
    return answer[0]


def _serve(call: str, result: str) -> None:
    """Read a call, and write (True, what it returned) or (False, what it raised, the traceback)."""
    threads, files, pickled = pickle.loads(Path(call).read_bytes())
    torch.set_num_threads(threads)
    registry = Registry.discover(files=files)
    with registry_session(registry):
        try:
            registry.require_files()
            function, arguments = pickle.loads(pickled)
            answer: tuple[object, ...] = (True, function(*arguments))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {error}", traceback.format_exc())
    Path(result).write_bytes(pickle.dumps(answer))


if __name__ == "__main__":
    _serve(*sys.argv[1:])
