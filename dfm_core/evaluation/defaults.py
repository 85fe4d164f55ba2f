"""Which metrics are measured when nobody asks. Imports no torch."""

from __future__ import annotations

from dfm_core.plugins.registry import Registry, default_registry


def default_metrics(registry: Registry | None = None) -> list[str]:
    """Names of the built-in metrics that declare to be measured by default: they need neither weights nor options."""
    registry = registry or default_registry()
    found = [registry.get("metric", name) for name in registry.names("metric")]
    return [one.name for one in found if one.plugin.is_builtin and getattr(one.spec, "by_default", False)]
