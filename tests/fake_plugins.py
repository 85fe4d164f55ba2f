"""Distributions with plugins, written to a temporary folder as pip would install them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from textwrap import dedent

import pytest

PREAMBLE = """
from dfm_core.plugins import DecompositionSpec, Options, PresetSpec, hookimpl

DFM_PLUGIN_API = 1
"""


class FakeSite:
    """A site-packages folder at the front of sys.path; its modules are forgotten at the end of the test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        monkeypatch.syspath_prepend(folder)

    def distribution(self, name: str, version: str, *entry_points: str) -> None:
        """Install the metadata of a distribution; entry_points: lines of the group dfm_core."""
        folder = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (folder / "entry_points.txt").write_text("\n".join(["[dfm_core]", *entry_points, ""]))
        importlib.invalidate_caches()

    def module(self, name: str, source: str, preamble: str = PREAMBLE) -> None:
        """Write a module."""
        (self.folder / f"{name}.py").write_text(preamble + dedent(source))
        # setitem, then delitem: at the end of the test, the module is out of sys.modules again.
        self.monkeypatch.setitem(sys.modules, name, None)
        self.monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()

    def plugin(self, namespace: str, source: str, distribution: str | None = None, version: str = "1.2") -> None:
        """Install one plugin: a distribution dfm-<namespace> and its module <namespace>_plugin."""
        self.module(f"{namespace}_plugin", source)
        self.distribution(distribution or f"dfm-{namespace}", version, f"{namespace} = {namespace}_plugin")


STEERABLE = """
@hookimpl
def dfm_decompositions():
    return [DecompositionSpec("steerable", "Steerable pyramid.", "acme_steerable:Steerable")]
"""
