"""The built-in components, by kind and name."""

from __future__ import annotations

from dfm_core.plugins.kinds import KINDS
from dfm_core.plugins.registry import default_registry


def built_in() -> list[tuple[str, str]]:
    """Kind and name of every built-in component."""
    return [(kind, name) for kind in KINDS for name in default_registry().names(kind)]


def needs_files(kind: str, name: str) -> bool:
    """Whether a component has an option that must be given: all of these are paths."""
    options = default_registry().get(kind, name).spec.options.model_fields.values()
    return any(option.is_required() for option in options)
