"""Models of other libraries from folders on this machine, never from a hub and never by unpickling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dfm_core.errors import ConfigError


def load_from_folder(model_class: Any, folder: Path, option: str) -> Any:
    """Load safetensors weights with a class's `from_pretrained`, in float32; torch's random state stays as it was.

    option: dotted name of the option that gave `folder`, for the message. Raises ConfigError if it cannot be loaded, or
    if weights are missing.
    """
    try:
        # Where the library initialises weights before it loads them, it draws from torch's global state.
        with torch.random.fork_rng(devices=[]):
            model, report = model_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:
        raise ConfigError(f"{option}: {folder} cannot be loaded as {model_class.__name__}: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(f"{option}: the weights in {folder} lack {len(missing)} tensors, first {missing[0]!r}")
    # Some classes override `to`, and warn.
    return nn.Module.to(model, torch.float32)
