"""Where and how a step runs: device, precision, kernels, and a global random state that is the run's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor


def autocast_dtype(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype | None:
    """Dtype of autocast, None for none. `auto`: bfloat16 on CUDA devices that have it."""
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    return torch.bfloat16 if precision == "bfloat16" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Autocast to `dtype`, or nothing for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy a batch to `device`; to CUDA from pinned memory, so that the copy does not wait for the device."""
    if device.type != "cuda":
        return {key: tensor.to(device) for key, tensor in batch.items()}
    pinned = {
        key: tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory() for key, tensor in batch.items()
    }
    return {key: tensor.to(device, non_blocking=True) for key, tensor in pinned.items()}


@contextmanager
def isolated_random_state(device: torch.device) -> Iterator[None]:
    """Give the caller's global random state (CPU and `device`) back afterwards."""
    state = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
            yield
    finally:
        if state is not None:
            torch.mps.set_rng_state(state)


def seed_random_state(device: torch.device, seed: int) -> None:
    """Seed the global generators of the CPU and of `device`: for dropout in networks, which takes no generator.

    `torch.manual_seed` would seed the devices of others too, and takes 80 µs where this takes one.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def deterministic_kernels(enabled: bool) -> Iterator[None]:
    """Allow only kernels that give the same bits every time; an operation without one raises torch's RuntimeError."""
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark


def eager_if(compiled: bool) -> AbstractContextManager[object]:
    """Run a compiled module eagerly inside: other batch sizes and eval mode would each compile again."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
