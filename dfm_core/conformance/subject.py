"""Who is judged: a component with its options, found by name or given as a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from dfm_core.errors import UnknownComponentError, UsageError, suggest
from dfm_core.plugins.discovery import PluginInfo
from dfm_core.plugins.factory import ResolvedSpec, load_factory, validate_options
from dfm_core.plugins.kinds import KINDS
from dfm_core.plugins.registry import Registry, default_registry
from dfm_core.plugins.specs import MEDIA, ComponentSpec
from dfm_core.plugins.unknown_names import LISTED, contents


@dataclass(frozen=True)
class Subject:
    """A component that is judged. options: what it is built with in every case."""

    resolved: ResolvedSpec
    options: BaseModel

    @property
    def kind(self) -> str:
        """Name of its kind."""
        return self.resolved.kind.name

    @property
    def title(self) -> str:
        """Its kind as prose."""
        return self.resolved.kind.title

    def declares(self, capability: str) -> bool:
        """Whether its spec declares a capability, under its options, or a medium ("video")."""
        spec: Any = self.resolved.spec
        if capability in MEDIA:
            return capability in spec.media
        return spec.holds(capability, self.options)

    def component_class(self) -> type[Any]:
        """Import its class. Raises PluginError."""
        return load_factory(self.resolved)


def subject_of(
    component: str | ComponentSpec,
    kind: str | None = None,
    options: Mapping[str, object] | None = None,
    registry: Registry | None = None,
) -> Subject:
    """Find a component and check its options.

    kind: needed where a name, or the type of a spec, leaves it open. Raises UnknownComponentError, PluginError,
    UsageError (the kind is open or unknown) and ConfigError (options).
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}.{suggest(kind, KINDS)} Kinds: {', '.join(KINDS)}")
    if isinstance(component, str):
        resolved = _find(registry or default_registry(), component, kind)
    else:
        resolved = ResolvedSpec(component, KINDS[kind or _kind_of(component)], _given(component))
    path = f"{resolved.kind.name}.options"
    return Subject(resolved, validate_options(resolved, options or {}, path))


def _find(registry: Registry, name: str, kind: str | None) -> ResolvedSpec:
    if kind is not None:
        return registry.get(kind, name)
    found = registry.find(name)
    if len(found) == 1:
        return found[0]
    if found:
        kinds = " and a ".join(resolved.kind.title for resolved in found)
        names = " or ".join(resolved.kind.name for resolved in found)
        raise UsageError(f"{name!r} is a {kinds}: say which with --kind {names} (in Python, kind=…)")
    if registry.plugin(name) is not None:
        record = registry.load(name)
        what = f" {record.message}" if record.message else contents(record)
        raise UnknownComponentError(f"{name!r} is a plugin, expected a component.{what}")
    raise UnknownComponentError(f"no component is called {name!r}.{suggest(name, registry.names())} {LISTED}")


def _kind_of(spec: ComponentSpec) -> str:
    kinds = [kind.name for kind in KINDS.values() if isinstance(spec, kind.spec)]
    if len(kinds) != 1:
        raise UsageError(f"the kind of {type(spec).__name__} {spec.name!r} is not clear: give kind=…")
    return kinds[0]


def _given(spec: ComponentSpec) -> PluginInfo:
    """Stand-in for the plugin of a spec that was given as an object."""
    return PluginInfo("given", "the spec", "given", spec.factory)
