"""What a spec must look like before core believes it."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from dfm_core.plugins.specs import MEDIA, ComponentSpec, DatasetSpec, PresetSpec

_COMPONENT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PRESET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def fault_of(spec: object, expected: type[ComponentSpec] | type[PresetSpec]) -> str:
    """Return what is wrong with an entry of a hook's list, or an empty string."""
    if not isinstance(spec, expected):
        return f"expected a list of {expected.__name__}, got {spec!r:.80} in it"
    if isinstance(spec, PresetSpec):
        return _fault_of_preset(spec)
    return _fault_of_component(spec) if isinstance(spec, ComponentSpec) else ""


def _fault_of_preset(spec: PresetSpec) -> str:
    if not (isinstance(spec.name, str) and _PRESET_NAME.fullmatch(spec.name)):
        return f"expected a name of lower-case letters, digits, - and _, got {spec.name!r}"
    if not isinstance(spec.path, Path):
        return f"preset {spec.name!r}: expected a pathlib.Path of a YAML file, got {spec.path!r}"
    return ""


def _fault_of_component(spec: ComponentSpec) -> str:
    if not (isinstance(spec.name, str) and _COMPONENT_NAME.fullmatch(spec.name)):
        return f"expected a bare name of lower-case letters, digits and _, got {spec.name!r}"
    if not (isinstance(spec.summary, str) and spec.summary.strip()):
        return f"{spec.name!r}: expected a summary of one line, got {spec.summary!r}"
    if not (isinstance(spec.factory, str) and _FACTORY.fullmatch(spec.factory)):
        return f"{spec.name!r}: expected a factory like 'package.module:Class', got {spec.factory!r}"
    if not (isinstance(spec.options, type) and issubclass(spec.options, BaseModel)):
        return f"{spec.name!r}: expected options to be a pydantic model, got {spec.options!r}"
    if spec.options.model_config.get("extra") != "forbid":
        # Without it a misspelt option would pass silently.
        return (
            f"{spec.name!r}: {spec.options.__name__} lets unknown fields pass: derive it from dfm_core.plugins.Options"
        )
    return _fault_of_media(spec)


def _fault_of_media(spec: ComponentSpec) -> str:
    declared = getattr(spec, "media", MEDIA)
    possible = MEDIA | {"latent"} if isinstance(spec, DatasetSpec) else MEDIA
    if isinstance(declared, frozenset) and declared and declared <= possible:
        return ""
    names = " and ".join(f'"{name}"' for name in sorted(possible))
    return f"{spec.name!r}: expected media to be a frozenset of some of {names}, got {declared!r}"
