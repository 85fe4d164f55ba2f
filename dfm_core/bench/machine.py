"""What this machine can do and how much memory it has left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

COMPILED_CODE = "TORCHINDUCTOR_CACHE_DIR"


def available_memory(device: torch.device) -> int | None:
    """Bytes that tensors on `device` can still take; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    known = [size for size in (_free_memory(), _left_in_group()) if size is not None]
    return min(known, default=None)


def _free_memory() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        return int(text.partition("MemAvailable:")[2].split()[0]) * 1024
    with suppress(ValueError, OSError, AttributeError):  # macOS: all there is, since it does not say what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _left_in_group() -> int | None:
    """What a container may still take (cgroup v2)."""
    folder = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, IndexError):
        text = (folder / "memory.stat").read_text()
        cache = int(text.partition("inactive_file ")[2].split()[0])  # given up where memory is short
        used = int((folder / "memory.current").read_text()) - cache
        return int((folder / "memory.max").read_text()) - used
    return None


def without_bfloat16(device: torch.device) -> str | None:
    """Why bfloat16 is not worth a try on `device`; None if it is."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if native else "this GPU has no bfloat16 arithmetic"
    if device.type == "cpu":
        native = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)()
        return None if native else "this processor has no bfloat16 arithmetic"
    return None


@contextmanager
def compiled_code_cleared() -> Iterator[None]:
    """Keep what torch.compile writes in a folder that is gone afterwards."""
    before = os.environ.get(COMPILED_CODE)
    with TemporaryDirectory(prefix="dfm-bench-", ignore_cleanup_errors=True) as folder:
        os.environ[COMPILED_CODE] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[COMPILED_CODE]
            else:
                os.environ[COMPILED_CODE] = before
