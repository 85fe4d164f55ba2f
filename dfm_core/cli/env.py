"""`dfm env`: what to say of this machine in a bug report."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from dfm_core.cli.command import Json, command
from dfm_core.cli.hardware import devices
from dfm_core.cli.output import print_json, print_table

VARIABLES = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES")
OWN_PREFIX = "DFM_"


@command
def env(json: Json = False) -> None:
    """Print versions and devices, for bug reports."""
    facts = environment()
    if json:
        print_json(facts)
    else:
        print_table("", ["what", "value"], list(facts.items()))


def environment() -> dict[str, object]:
    """Versions, devices, threads, variables and plugins of this process."""
    import torch

    from dfm_core.plugins.discovery import installed_version

    return {
        "dfm": installed_version(),
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        **package_versions(),
        "cuda": torch.version.cuda,
        "devices": devices(),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        **variables(),
        "plugins": plugins(),
    }


def variables() -> dict[str, str]:
    """The environment variables that change what this program does, where they are set."""
    return {
        name: value for name, value in sorted(os.environ.items()) if name in VARIABLES or name.startswith(OWN_PREFIX)
    }


def plugins() -> list[str]:
    """One text a plugin: namespace, who makes it, state. Loads none but the built-in one."""
    from dfm_core.plugins.discovery import BUILTIN
    from dfm_core.plugins.registry import default_registry

    registry = default_registry()
    if registry.plugin(BUILTIN) is not None:
        registry.load(BUILTIN)
    return [f"{record.info.namespace}: {record.info.provider} ({record.state})" for record in registry.plugins()]


def package_versions() -> dict[str, object]:
    """Installed version of everything that this distribution requires, extras left out; null where one is missing."""
    found: dict[str, object] = {}
    for requirement in _requirements():
        try:
            found[requirement] = version(requirement)
        except PackageNotFoundError:
            found[requirement] = None
    return found


def _requirements() -> list[str]:
    from dfm_core.plugins.discovery import DISTRIBUTION

    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return ["torch", "numpy"]
    return [match[0] for line in lines if "extra ==" not in line and (match := re.match(r"[\w.-]+", line))]
