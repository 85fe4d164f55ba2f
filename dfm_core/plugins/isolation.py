"""Load a plugin in a process of its own, which it may crash, hang or print to without anybody else noticing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dfm_core.plugins.describe import describe_plugin
from dfm_core.plugins.discovery import PluginRecord, PluginState
from dfm_core.plugins.registry import Registry

_SHOWN = 2000
"""Letters of what a process said before it ended."""
_RUN = "from dfm_core.plugins.isolation import write_description; write_description(*__import__('sys').argv[1:])"


def describe_isolated(record: PluginRecord, time_limit: float) -> dict[str, Any]:
    """What `describe_plugin` says of an installed plugin after it was loaded in another process.

    time_limit: seconds that this may take. A plugin whose process ends early, or takes longer, is broken.
    """
    with tempfile.TemporaryDirectory(prefix="dfm-plugin-") as folder:
        target, said = Path(folder, "description.json"), Path(folder, "stderr")
        ending = _run(record.info.namespace, target, said, time_limit)
        if target.exists():
            return dict(json.loads(target.read_text(encoding="utf-8")))
        info = record.info
        return describe_plugin(record) | {
            "state": str(PluginState.BROKEN),
            "note": f"plugin {info.namespace!r} of {info.provider} is broken: {ending}",
            "traceback": said.read_text(encoding="utf-8", errors="replace")[-_SHOWN:],
        }


def write_description(namespace: str, target: str) -> None:
    """Load a plugin, write what is known of it as JSON to the file `target`, and end the process at once."""
    described = json.dumps(describe_plugin(Registry.discover().load(namespace)), default=str)
    partial = Path(f"{target}.partial")
    partial.write_text(described, encoding="utf-8")
    os.replace(partial, target)
    os._exit(0)  # whatever the plugin has left running


def _run(namespace: str, target: Path, said: Path, time_limit: float) -> str:
    """Run `write_description` in another process, and return how that ended."""
    # -P: nothing is imported from the working directory. A session of its own: what it starts ends with it.
    command = [sys.executable, "-P", "-c", _RUN, namespace, str(target)]
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        code = process.wait(time_limit)
    except subprocess.TimeoutExpired:
        return f"its import took more than {time_limit:g} s and was stopped"
    finally:
        _end(process)
    return f"its import ended the process with {f'signal {-code}' if code < 0 else f'exit code {code}'}"


def _end(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        # Where all of it has ended; macOS says the latter.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
