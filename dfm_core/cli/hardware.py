"""What this machine has. Imports torch only when it is asked."""

from __future__ import annotations


def uses_accelerator(device: str) -> bool:
    """Whether a run on `device` (as in a configuration) would use a GPU; `auto` asks the machine."""
    if device != "auto":
        return device != "cpu"
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def devices() -> list[str]:
    """The devices that a run can use, best first, with their names."""
    import torch

    cuda = [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    return [*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
