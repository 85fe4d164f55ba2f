"""How many CPU cores this process may use, by its affinity and its cgroup's quota. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_LIMITED_HERE: ContextVar[bool] = ContextVar("limited_here", default=False)


def affine_cores() -> int:
    """Cores that the scheduler may put this process on, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_cores() -> int:
    """Cores whose time this process gets, at least 1: a container may see 64 cores and have the time of 2."""
    return max(1, min([affine_cores(), *map(int, cpu_quotas())]))


def cpu_quotas(mounted: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> Iterator[float]:
    """Cores' worth of time that each cgroup of this process, or above it, grants; nothing where none sets a limit.

    mounted: where the cgroups of version 1 or 2 lie. own: what tells the groups of this process.
    """
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "cpu" in controllers.split(","):
                # Inside a container the path may be the host's, so that only the top of it lies here.
                root = mounted / controllers
                for group in (root / path.lstrip("/"), *(root / path.lstrip("/")).parents):
                    if group.is_relative_to(root):
                        yield from _quota(group)


def _quota(group: Path) -> Iterator[float]:
    """Version 2: "quota period" or "max period" in one file; version 1: two files, a quota of -1 is none."""
    with suppress(OSError, ValueError):
        quota, period = map(float, (group / "cpu.max").read_text().split())
        yield quota / period
    with suppress(OSError, ValueError):
        quota, period = (float((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        if quota > 0:
            yield quota / period


def limit_threads() -> None:
    """Give torch no more threads than the quota pays for, unless OMP_NUM_THREADS says; before torch is imported."""
    cores = available_cores()
    if THREADS not in os.environ and cores < affine_cores():
        os.environ[THREADS] = str(cores)
        _LIMITED_HERE.set(True)


def threads_of_each(size: int) -> str:
    """Threads of each of `size` processes on this machine: what the user says in OMP_NUM_THREADS, or equal shares."""
    chosen = None if _LIMITED_HERE.get() else os.environ.get(THREADS)
    return chosen or str(max(1, available_cores() // size))
