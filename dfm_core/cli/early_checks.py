"""What is refused before a command says that it prepares, and where it can be before torch is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dfm_core.errors import DataError

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig

ANYWHERE = ("auto", "cpu")
"""Devices that every machine has."""
_PATTERN = frozenset("*?[{")


def check_data(config: RunConfig) -> None:
    """Raise DataError if the data is said to lie in a folder or file of this machine that is not there.

    Of built-in data sets only: what a path means to others, they know.
    """
    from dfm_core.plugins.registry import default_registry

    choice = config.component("dataset")
    found, path = default_registry().get("dataset", choice.name), choice.options.get("path")
    if not found.plugin.is_builtin or "path" not in getattr(found.spec.options, "places", ()):
        return
    if isinstance(path, str) and os.path.isabs(path) and not _PATTERN & set(path) and not os.path.exists(path):
        described = found.spec.options.model_fields["path"].description or ""
        wanted = f"expected a {described[:1].lower()}{described[1:].rstrip('.')}; " if described else ""
        raise DataError(f"no folder or file {path}; {wanted}give its path with --data")


def check_device(device: str) -> None:
    """Raise DeviceError for a device that this machine lacks. Imports torch, unless every machine has it."""
    if device not in ANYWHERE:
        from dfm_core.devices import resolve_device

        resolve_device(device)


def check_new_output(config: RunConfig) -> None:
    """Raise UsageError if something lies where a new run is to be written."""
    from dfm_core.training.run_directory import RunDirectory

    if config.output:
        RunDirectory.check_new(Path(config.output))
