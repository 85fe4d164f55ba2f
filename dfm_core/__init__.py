"""Decomposable Flow Matching: coarse-to-fine generation with any decomposition, every part a plugin.

`build`, `train`, `load` and `Model` are imported (with torch) when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfm_core.api import build, train
    from dfm_core.model import Model, load

    __version__: str

_ADDRESSES = {"build": "dfm_core.api", "train": "dfm_core.api", "load": "dfm_core.model", "Model": "dfm_core.model"}

__all__ = ["Model", "__version__", "build", "load", "train"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    if name == "__version__":  # not before it is asked for: reading metadata takes longer than `dfm --help`
        from dfm_core.plugins.discovery import installed_version

        return installed_version()
    if name not in _ADDRESSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ADDRESSES[name]), name)
