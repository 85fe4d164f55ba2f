"""How much of the machine a run uses: its arithmetic, its memory, and whether the device had to wait."""

from __future__ import annotations

import functools
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

MATRIX_SIZES = {"cuda": 8192, "mps": 4096}
MATRIX_SIZE = 1024
"""Side of the square matrices whose product is measured, by device and elsewhere (where it takes 20 to 50 ms)."""
PRODUCTS_QUEUED = {"cuda": 10}
SECONDS = 0.15


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a large matrix product on `device`, the best of a few; measured once a process.

    Takes a fifth of a second, and uses no global random state.
    """
    size, queued = MATRIX_SIZES.get(device.type, MATRIX_SIZE), PRODUCTS_QUEUED.get(device.type, 1)
    generator = torch.Generator(device).manual_seed(0)
    # Not zeros or ones, for which a GPU draws less power and clocks higher.
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    product, best = left @ right, float("inf")
    synchronize(device)
    deadline = time.perf_counter() + SECONDS
    while best == float("inf") or time.perf_counter() < deadline:
        start = time.perf_counter()
        for _ in range(queued):
            torch.mm(left, right, out=product)
        synchronize(device)
        best = min(best, (time.perf_counter() - start) / queued)
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def begin_peak_memory(device: torch.device) -> None:
    """Forget the peak that a CUDA device has had so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Largest number of bytes so far: of tensors on CUDA, else of this process in memory; None where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    with suppress(ImportError):  # Windows
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


class DeviceQueue:
    """Whether a device still works on what it was given; asking does not wait for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.Event() if device.type == "cuda" else None

    def mark(self) -> None:
        """Note that everything of a step has been given to the device."""
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(self._device))

    def is_empty(self) -> bool:
        """Whether the device has done all of it; true where nothing is queued, as on a CPU."""
        return self._event is None or self._event.query()
