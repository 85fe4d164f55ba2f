"""The device of a run."""

from __future__ import annotations

import os

import torch

from dfm_core.errors import DeviceError


def resolve_device(device: str) -> torch.device:
    """Turn "auto" or a device's name into a device of this machine. Raises DeviceError if it is not there."""
    # Deterministic products on CUDA need it; cuBLAS reads it at its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {device!r}") from error
    there = [name for name, found in available.items() if found]
    if not available.get(wanted.type, False):
        raise DeviceError(
            f"device {device!r} is not on this machine; it has {', '.join(there)} (--device auto picks one)"
        )
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {device!r} is not on this machine; it has {torch.cuda.device_count()} CUDA devices")
    return wanted
