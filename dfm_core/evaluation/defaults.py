"""Which metrics are measured when nobody asks. Imports no torch."""

from __future__ import annotations

from dfm_core.media import media_of
from dfm_core.plugins.registry import Registry, default_registry


def default_metrics(registry: Registry | None = None, medium: str | None = "image") -> list[str]:
    """Names of the built-in metrics that declare to be measured by default: they need neither weights nor options.

    medium: "image" or "video", what is measured; None names those of either.
    """
    registry = registry or default_registry()
    found = [registry.get("metric", name) for name in registry.names("metric")]
    default = [one.name for one in found if one.plugin.is_builtin and getattr(one.spec, "by_default", False)]
    return [name for name in default if medium is None or medium in media_of(registry, "metric", name)]
