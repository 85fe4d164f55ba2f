"""`--nproc N`: start N processes of the same command on this machine, pass signals on, and tell of their failures once.

Each process finds the variables that torchrun sets. Not torch's own launcher: that one gives a process 30 seconds to
write its checkpoint after Ctrl-C, and prints tracebacks of its own. Imports no torch.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from dfm_core.cli.interrupt import INTERRUPTED, say_interrupted
from dfm_core.cli.output import error, result_descriptor
from dfm_core.cli.threads import THREADS, threads_of_each
from dfm_core.errors import LostProcessError, WorldError

COMMAND = [sys.executable, "-P", "-m", "dfm_core"]
"""What each process runs. -P: else Python would import from the working directory."""
LAUNCHER = "DFM_LAUNCHER"
"""Folder in which the processes of a launcher leave their failures; only they have this variable."""
GRACE = 20.0
"""Seconds in which processes end by themselves after one of them failed; then they are killed."""
_POLL = 0.05
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_ARGUMENTS: ContextVar[Sequence[str]] = ContextVar("arguments", default=())

Nproc = Annotated[
    int | None, typer.Option(help="Processes on this machine, each with a GPU of its own.", metavar="N", min=1)
]


@dataclass(frozen=True)
class Failure:
    """Why a process ended. lost: only because another one did."""

    message: str
    exit_code: int
    lost: bool


def remember_arguments(arguments: Sequence[str]) -> None:
    """Keep the command line for `launch`."""
    _ARGUMENTS.set(tuple(arguments))


def number_of_processes() -> int:
    """How many processes work together; the launcher of several is not one of them."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdecimal() else 1


def is_first_process() -> bool:
    """Whether this process speaks for all that work together."""
    return number_of_processes() == 1 or os.environ.get("RANK", "0") == "0"


def work_alone() -> None:
    """From now on this process, one of several, does not train together with the others."""
    os.environ["WORLD_SIZE"] = "1"


def end_without_finalization(exit_code: Callable[[], int]) -> None:
    """Let this process, one of several, end after its exit handlers without taking the interpreter apart.

    Threads of gloo may still hold tensors then; letting go of one needs the interpreter, and its lack aborts the
    process (pytorch/pytorch#190489). Call it before anything else that registers exit handlers: the first runs last.
    """

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(exit_code())

    atexit.register(end)


def is_launcher(nproc: int | None) -> bool:
    """Whether this process is to start others, and wait. Raises WorldError where torchrun has started it."""
    if LAUNCHER in os.environ:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
        return False
    if nproc is not None and "WORLD_SIZE" in os.environ:
        raise WorldError(
            f"--nproc {nproc} starts processes, and this one was started by torchrun (WORLD_SIZE is set): leave out "
            "--nproc"
        )
    return nproc is not None and nproc > 1


def launch(nproc: int, alone: bool = False) -> int:
    """Run this command line in `nproc` processes; return the exit code of all.

    alone: none of them needs the others, so that they go on where one fails.
    """
    with tempfile.TemporaryDirectory(prefix="dfm-") as name:
        group = ProcessGroup(Path(name), nproc, alone)
        with group.passing_on_signals():
            group.start()
            group.wait()
        return group.exit_code()


def hand_to_launcher(message: str, failure: BaseException, exit_code: int) -> bool:
    """Leave a failure to the launcher, which tells it once for all; False where there is none."""
    folder = os.environ.get(LAUNCHER)
    if folder is None:
        return False
    left = Failure(message, exit_code, isinstance(failure, LostProcessError))
    with suppress(OSError):
        Path(folder, os.environ["RANK"]).write_text(json.dumps(asdict(left)), encoding="utf-8")
        return True
    return False


@dataclass
class ProcessGroup:
    """The processes of one launch.

    alone: see `launch`. signals: how many were passed on. killed: processes that did not end in time.
    """

    folder: Path
    size: int
    alone: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    signals: int = 0
    killed: set[int] = field(default_factory=set)

    def start(self) -> None:
        """Start all processes."""
        shared = _environment(self.size) | {LAUNCHER: str(self.folder)}
        command = [*COMMAND, *_ARGUMENTS.get()]
        for index in range(self.size):
            own = {"RANK": str(index), "LOCAL_RANK": str(index)}
            # In a session of its own, a process does not hear a terminal's Ctrl-C, only what the launcher passes on.
            streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": result_descriptor()}
            self.processes.append(subprocess.Popen(command, env={**shared, **own}, start_new_session=True, **streams))

    def wait(self) -> None:
        """Wait until all have ended. Unless they are alone, kill those that have not some time after a failure."""
        deadline = None
        try:
            while None in (codes := self.codes):
                if deadline is None and not self.alone and any(code not in (None, 0, INTERRUPTED) for code in codes):
                    deadline = time.monotonic() + GRACE
                if deadline is not None and time.monotonic() > deadline:
                    break
                time.sleep(_POLL)
        finally:
            self.kill()

    @property
    def codes(self) -> list[int | None]:
        """Exit codes; None while a process runs, negative for the signal that ended it."""
        return [process.poll() for process in self.processes]

    @contextmanager
    def passing_on_signals(self) -> Iterator[None]:
        """Pass signals on as SIGTERM: before the handlers of a process stand, it ends silently. The third one kills."""

        def handle(_signal: int, _frame: FrameType | None) -> None:
            self.signals += 1
            if self.signals > 2:
                self.kill()
            for process in self.processes:
                process.terminate()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # What nohup has switched off stays off.
        heard = [number for number in _SIGNALS if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
        previous = {number: signal.signal(number, handle) for number in heard}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def kill(self) -> None:
        """Kill what still runs, with the processes that it has started."""
        for index, process in enumerate(self.processes):
            if process.poll() is None:
                self.killed.add(index)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def exit_code(self) -> int:
        """Tell what failed; return 0, 1 (failed), 2 (wrong usage) or 130 (interrupted)."""
        failures = {index: failure for index in range(self.size) if (failure := self._failure(index)) is not None}
        causes = {index: failure for index, failure in failures.items() if not failure.lost}
        if self.signals and not causes:
            if INTERRUPTED not in self.codes:  # they ended silently
                say_interrupted()
            return INTERRUPTED
        if all(code in (0, INTERRUPTED) for code in self.codes):
            return INTERRUPTED if any(self.codes) else 0
        error("\n".join(self._told(failures, causes)))
        return max((failure.exit_code for failure in causes.values()), default=1)

    def _failure(self, index: int) -> Failure | None:
        try:
            return Failure(**json.loads((self.folder / str(index)).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _told(self, failures: Mapping[int, Failure], causes: Mapping[int, Failure]) -> list[str]:
        messages = dict.fromkeys(failure.message for failure in causes.values())
        if len(causes) == self.size and len(messages) == 1:
            return list(messages)
        told = [f"process {index}: {failure.message}" for index, failure in causes.items()]
        for index, code in enumerate(self.codes):
            if code not in (None, 0, INTERRUPTED) and index not in failures and index not in self.killed:
                told.append(f"process {index} {_describe(code)}")
        return told + [failure.message for failure in failures.values() if failure.lost][:1]


def _environment(size: int) -> dict[str, str]:
    """Variables that all processes share, as torchrun sets them."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    sizes = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    meeting_point = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**os.environ, THREADS: threads_of_each(size), **sizes, **meeting_point}


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (" (by the system, if memory was short)" if name == "SIGKILL" else "")


def _end_with_launcher() -> None:
    """Ask this process to stop when its launcher is gone: nothing is ever written to its standard input."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
