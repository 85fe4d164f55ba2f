"""The plugins of one process: finds a component by its name and loads only the plugin that the name says."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dfm_core.errors import ConfigError, PluginError, UnknownComponentError, UsageError, suggest
from dfm_core.plugins import factory
from dfm_core.plugins.discovery import (
    BUILTIN,
    DISTRIBUTION,
    Claim,
    PluginRecord,
    PluginState,
    disabled_namespaces,
    discover,
)
from dfm_core.plugins.factory import ResolvedSpec
from dfm_core.plugins.kinds import KINDS, Kind
from dfm_core.plugins.loader import load_plugin

OBJECT_PREFIX = "object:"
"""Begins the name under which a configuration records a component that was given as a Python object."""


class Registry:
    """Components of the installed plugins, by kind and name.

    Bare names are the built-in plugin's, namespace/name those of others: a name loads one plugin and touches no other.
    """

    def __init__(self, claims: Iterable[Claim]) -> None:
        self._claims = list(claims)

    @classmethod
    def discover(cls, environment: Mapping[str, str] = os.environ) -> Registry:
        """Registry of what is installed, without the plugins that DFM_DISABLE_PLUGINS names; imports nothing."""
        return cls(discover(disabled_namespaces(environment)))

    def plugins(self) -> tuple[PluginRecord, ...]:
        """What is known of every plugin now; loads none."""
        return tuple(claim.record for claim in self._claims)

    def load(self, namespace: str) -> PluginRecord:
        """Load a plugin unless that was tried before, and return its record, whatever its state.

        Raises UnknownComponentError if no installed distribution claims the namespace.
        """
        index = self._find(namespace)
        claim = self._claims[index]
        if claim.record.state is PluginState.NOT_LOADED:
            self._claims[index] = Claim(load_plugin(claim), claim.entry_point)
        return self._claims[index].record

    def get(self, kind: str, name: str) -> ResolvedSpec:
        """Find a component.

        Raises UnknownComponentError for a name that nobody has, PluginError if its plugin cannot be used.
        """
        row = self._kind(kind)
        if name.startswith(OBJECT_PREFIX):
            raise UnknownComponentError(f"the {row.title} was given as a Python object ({name}); give it again")
        record, bare = self._record_for(name)
        spec = record.components.get(kind, {}).get(bare)
        if spec is None:
            raise UnknownComponentError(self._unknown(row, name, record))
        return ResolvedSpec(spec, row, record.info)

    def find(self, name: str) -> tuple[ResolvedSpec, ...]:
        """Find the components of any kind with this name. Raises PluginError if the plugin cannot be used."""
        record, bare = self._record_for(name)
        kinds = [kind for kind in KINDS.values() if bare in record.components.get(kind.name, {})]
        return tuple(ResolvedSpec(record.components[kind.name][bare], kind, record.info) for kind in kinds)

    def preset(self, name: str) -> Path:
        """Find the file of a preset. Raises ConfigError for a name that nobody has."""
        record, bare = self._record_for(name)
        if bare not in record.presets:
            known = [record.info.full_name(preset) for preset in record.presets]
            there = ", ".join(known) or "none"
            raise ConfigError(f"unknown preset {name!r}.{suggest(name, known)} {record.info.provider} has {there}")
        return record.presets[bare].path

    def names(self, kind: str | None = None) -> tuple[str, ...]:
        """Names, as users write them, of the built-in plugin and of those loaded so far; of one kind or of all."""
        kinds = list(KINDS) if kind is None else [self._kind(kind).name]
        self._usable(BUILTIN)
        loaded = [record for record in self.plugins() if record.state is PluginState.LOADED]
        found = (
            record.info.full_name(name) for record in loaded for row in kinds for name in record.components.get(row, {})
        )
        return tuple(dict.fromkeys(found))

    def validate_options(
        self, kind: str, name: str, options: Mapping[str, object], origins: Mapping[str, str] | None = None
    ) -> BaseModel:
        """Build the options of a component. origins: dotted path -> where it came from. Raises ConfigError."""
        return factory.validate_options(self.get(kind, name), options, origins=origins)

    def override_options(
        self, kind: str, name: str, options: Mapping[str, object], changes: Mapping[str, object]
    ) -> dict[str, object]:
        """Return `options` with `changes` on top, checked, as plain data. Raises ConfigError."""
        return self.validate_options(kind, name, {**options, **changes}).model_dump(mode="json")

    def create(self, kind: str, name: str, options: Mapping[str, object] | BaseModel, facts: object) -> Any:
        """Build a component. Raises ConfigError for its options; see `get` and `load_factory` for the rest."""
        return factory.build(self.get(kind, name), options, facts)

    def load_factory(self, resolved: ResolvedSpec) -> type[Any]:
        """Import the class behind a spec. Raises PluginError, naming the distribution, if that fails."""
        return factory.load_factory(resolved)

    def _record_for(self, name: str) -> tuple[PluginRecord, str]:
        """The loaded plugin that a name points to, and the name inside it."""
        namespace, slash, bare = name.partition("/")
        if not slash or namespace == BUILTIN:
            return self._usable(BUILTIN), name
        return self._usable(namespace), bare

    def _usable(self, namespace: str) -> PluginRecord:
        record = self.load(namespace)
        if record.state is not PluginState.LOADED:
            raise PluginError(f"{record.message}; `dfm plugins show {namespace}` says more")
        return record

    def _find(self, namespace: str) -> int:
        """Index of a namespace's claim: the one that may be used where there is one, else a refused one."""
        indices = [index for index, claim in enumerate(self._claims) if claim.record.info.namespace == namespace]
        if indices:
            return min(indices, key=lambda index: self._claims[index].record.state is PluginState.CONFLICT)
        if namespace == BUILTIN:
            raise PluginError(
                f"the built-in plugin is not installed: run `pip install {DISTRIBUTION}` or install its source"
            )
        near = suggest(namespace, self._namespaces())
        raise UnknownComponentError(
            f"no plugin {namespace!r} is installed.{near} `dfm plugins list` shows what there is"
        )

    def _namespaces(self) -> list[str]:
        return sorted({claim.record.info.namespace for claim in self._claims} - {BUILTIN})

    def _kind(self, kind: str) -> Kind:
        if kind not in KINDS:
            raise UsageError(f"unknown kind {kind!r}.{suggest(kind, KINDS)} Kinds: {', '.join(KINDS)}")
        return KINDS[kind]

    def _unknown(self, kind: Kind, name: str, record: PluginRecord) -> str:
        """Sentence for a name that its plugin does not have: near names in any spelling, or the kind that has it."""
        spelt = name.rpartition("/")[2].strip().lower().replace("-", "_").replace(" ", "_")
        hint = suggest(spelt, record.components.get(kind.name, {}))
        if not record.info.is_builtin:
            hint = hint.replace(" '", f" '{record.info.namespace}/")
        if not hint:
            elsewhere = [KINDS[other].title for other, specs in record.components.items() if spelt in specs]
            hint = f" {spelt!r} is a {' and a '.join(elsewhere)}." if elsewhere else ""
        if record.info.is_builtin and self._namespaces():
            hint += f" Components of other plugins are written namespace/name ({', '.join(self._namespaces())})."
        return f"unknown {kind.title} {name!r}.{hint} `dfm plugins list` shows what there is"


@functools.cache
def default_registry() -> Registry:
    """Return the registry of this process, made at the first call."""
    return Registry.discover()
