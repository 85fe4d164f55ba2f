"""The pluggy hooks: one a kind, listing specs, and `dfm_presets`. Generated from the table of kinds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pluggy

from dfm_core.plugins.kinds import KINDS
from dfm_core.plugins.specs import PresetSpec

PROJECT = "dfm"
API_VERSION = 1
"""What a plugin module declares as the literal `DFM_PLUGIN_API` that it was written for."""

hookimpl = pluggy.HookimplMarker(PROJECT)
_hookspec = pluggy.HookspecMarker(PROJECT)

HOOKS: dict[str, type[Any]] = {kind.hook: kind.spec for kind in KINDS.values()} | {"dfm_presets": PresetSpec}
"""Hook name -> type of what it lists."""


def hook_specifications() -> SimpleNamespace:
    """Return the namespace of hook specifications, for `PluginManager.add_hookspecs`."""

    def specification(name: str, listed: type[Any]) -> Any:
        def hook() -> list[Any]:
            raise NotImplementedError

        hook.__name__ = name
        hook.__doc__ = f"Return a list of {listed.__name__}."
        return _hookspec(hook)

    return SimpleNamespace(**{name: specification(name, listed) for name, listed in HOOKS.items()})
