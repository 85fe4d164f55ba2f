"""What a run's folder says of its process: training, or how it ended. Imports no torch."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dfm_core.errors import UsageError
from dfm_core.training.run_directory import RunDirectory, replace_text

RunState = Literal["training", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, so that another program can tell whether it still lives.

    machine: host name and, where there is one, the name space of process numbers. started: by the system's clock, since
    numbers are used again.
    """

    machine: str
    number: int
    started: str

    @classmethod
    def own(cls) -> ProcessIdentity:
        """The identity of this process."""
        return cls(_machine(), os.getpid(), _start_time(os.getpid()))

    def lives(self) -> bool | None:
        """Whether the process lives; None if it cannot be told, as from another machine."""
        if os.name != "posix" or self.machine != _machine():
            return None
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # somebody else's process: it is there
        return _start_time(self.number) == self.started


@dataclass
class RunStatus:
    """The content of status.json. error: why a failed run ended, in one line."""

    state: RunState
    process: ProcessIdentity = field(default_factory=ProcessIdentity.own)
    error: str | None = None

    def write(self, run: RunDirectory) -> None:
        """Replace status.json in one go; a disk that is full keeps the old one."""
        with suppress(OSError):
            replace_text(run.status, json.dumps(asdict(self)))


def read_status(run: RunDirectory) -> RunStatus | None:
    """Read status.json; None if there is none, or it cannot be read."""
    try:
        saved: Mapping[str, Any] = json.loads(run.status.read_text(encoding="utf-8"))
        return RunStatus(saved["state"], ProcessIdentity(**saved["process"]), saved["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_not_training(run: RunDirectory) -> None:
    """Raise UsageError if another process, known to live, trains this run."""
    status, own = read_status(run), ProcessIdentity.own()
    if status and status.state == "training" and status.process != own and status.process.lives():
        raise UsageError(
            f"{run.path} is being trained by process {status.process.number}: wait for its end, or stop it (Ctrl-C, "
            f"or kill {status.process.number}), before going on with it"
        )


@contextmanager
def recorded_status(run: RunDirectory, records: bool = True) -> Iterator[RunStatus]:
    """Say in the run's folder that it trains, and afterwards how it ended: as the caller has set `state`, or failed.

    records: whether this process is the one that writes.
    """
    status = RunStatus("training")
    write = status.write if records else lambda run: None
    write(run)
    try:
        yield status
    except KeyboardInterrupt:
        status.state = "interrupted"
        raise
    except BaseException as error:
        status.state, status.error = "failed", _first_line(error)
        raise
    finally:
        write(run)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _machine() -> str:
    with suppress(OSError):
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def _start_time(number: int) -> str:
    """Start of a process in ticks since the machine's; an empty text for a dead one, or where the system does not say.

    A process that was killed and whose parent does not ask for it keeps its number: it is dead all the same.
    """
    with suppress(OSError, IndexError):
        # The second field is the program's name, in brackets, and may hold spaces.
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
