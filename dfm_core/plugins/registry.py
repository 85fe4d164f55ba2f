"""The plugins of one process: finds a component by its name and loads only the plugin that the name says."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dfm_core.errors import ConfigError, PluginError, UnknownComponentError, UsageError, suggest
from dfm_core.plugins import factory
from dfm_core.plugins.discovery import (
    ALL,
    BUILTIN,
    DISABLE_VARIABLE,
    DISTRIBUTION,
    STRICT_VARIABLE,
    Claim,
    PluginInfo,
    PluginRecord,
    PluginState,
    disabled_namespaces,
    discover,
    is_strict,
)
from dfm_core.plugins.factory import ResolvedSpec
from dfm_core.plugins.kinds import KINDS, Kind
from dfm_core.plugins.loader import load_plugin
from dfm_core.plugins.unknown_names import unknown_component

OBJECT_PREFIX = "object:"
"""Begins the name under which a configuration records a component that was given as a Python object."""
LAID_UNDER = "defaults"
"""Begins the names of presets that are laid under every run: nobody asks for one by name."""
HANDFUL = 5
_REFUSED = (PluginState.CONFLICT, PluginState.DISABLED)


class Registry:
    """Components of the installed plugins and of given files, by kind and name.

    Bare names are the built-in plugin's, namespace/name those of others: a name loads one plugin and touches no other.
    """

    def __init__(self, claims: Iterable[Claim]) -> None:
        self._claims = list(claims)

    @classmethod
    def discover(
        cls,
        environment: Mapping[str, str] = os.environ,
        *,
        files: Sequence[str | Path] = (),
        builtin_only: bool = False,
    ) -> Registry:
        """Registry of what is installed, without the plugins that DFM_DISABLE_PLUGINS names; imports nothing.

        files: plugin files beside them; the namespace of each is its name without `.py`. builtin_only: of what is
        installed, the built-in plugin alone. Raises PluginError for a file that is missing, no Python, or of a
        namespace that is taken.
        """
        disabled = disabled_namespaces(environment)
        return cls(discover(disabled | ({ALL: "--no-plugins"} if builtin_only else {}), files))

    def plugins(self) -> tuple[PluginRecord, ...]:
        """What is known of every plugin now; loads none."""
        return tuple(claim.record for claim in self._claims)

    def plugin(self, namespace: str) -> PluginInfo | None:
        """Who has a namespace and may be used: a distribution or a file. None if nobody; loads nothing."""
        usable = [record for record in self.plugins() if record.state not in _REFUSED]
        return next((record.info for record in usable if record.info.namespace == namespace), None)

    def load(self, namespace: str) -> PluginRecord:
        """Load a plugin unless that was tried before, and return its record, whatever its state.

        Raises UnknownComponentError if no installed distribution and no given file has the namespace.
        """
        index = self._find(namespace)
        claim = self._claims[index]
        if claim.record.state is PluginState.NOT_LOADED:
            self._claims[index] = Claim(load_plugin(claim), claim.source)
        return self._claims[index].record

    def load_files(self) -> tuple[PluginRecord, ...]:
        """Load the given files and return their records, whatever their states."""
        return tuple(self.load(record.info.namespace) for record in self.plugins() if record.info.file is not None)

    def require_files(self) -> None:
        """Load the given files. Raises PluginError for one that cannot be used."""
        for record in self.load_files():
            self._usable(record.info.namespace)

    def require_all(self) -> None:
        """Load every plugin that is not disabled. Raises PluginError that names each one that cannot be used."""
        for namespace in dict.fromkeys(record.info.namespace for record in self.plugins()):
            self.load(namespace)
        fine = (PluginState.LOADED, PluginState.DISABLED)
        faults = dict.fromkeys(record.message for record in self.plugins() if record.state not in fine)
        if faults:
            raise PluginError(
                f"{STRICT_VARIABLE} asks that every installed plugin can be used:\n"
                + "\n".join(f"* {fault}" for fault in faults)
                + f"\n`dfm plugins show NAME` says more; {DISABLE_VARIABLE}=NAME,NAME leaves plugins out"
            )

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
            raise UnknownComponentError(unknown_component(row, name, record, self.names(kind), self._namespaces()))
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
            raise ConfigError(f"unknown preset {name!r}.{_presets_near(name, record)}")
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
        if record.state is PluginState.DISABLED:
            raise PluginError(record.message)
        if record.state is not PluginState.LOADED:
            flag = f" --plugin {record.info.address}" if record.info.file is not None else ""
            raise PluginError(f"{record.message}; `dfm plugins show {namespace}{flag}` says more") from record.cause
        return record

    def _find(self, namespace: str) -> int:
        """Index of a namespace's claim: the one that may be used where there is one, else a refused one."""
        indices = [index for index, claim in enumerate(self._claims) if claim.record.info.namespace == namespace]
        if indices:
            return min(indices, key=lambda index: self._claims[index].record.state in _REFUSED)
        if namespace == BUILTIN:
            raise PluginError(
                f"the built-in plugin is not installed: run `pip install {DISTRIBUTION}` or install its source"
            )
        near = suggest(namespace, self._namespaces())
        raise UnknownComponentError(
            f"no plugin {namespace!r} is installed.{near} `dfm plugins list` shows what there is; "
            "a plugin in one file is given with --plugin FILE"
        )

    def _namespaces(self) -> list[str]:
        return sorted({claim.record.info.namespace for claim in self._claims} - {BUILTIN})

    def _kind(self, kind: str) -> Kind:
        if kind not in KINDS:
            raise UsageError(f"unknown kind {kind!r}.{suggest(kind, KINDS)} Kinds: {', '.join(KINDS)}")
        return KINDS[kind]


def _presets_near(name: str, record: PluginRecord) -> str:
    """Which of a plugin's presets may have been meant by `name`, else some; where all are shown."""
    known = [record.info.full_name(preset) for preset in record.presets if not preset.startswith(LAID_UNDER)]
    some = f" {record.info.provider} has {', '.join(known[:HANDFUL]) or 'none'}{' …' * (len(known) > HANDFUL)}."
    shows = "list" if record.info.is_builtin else f"show {record.info.namespace}"
    return f"{suggest(name, known) or some} `dfm plugins {shows}` shows them"


_SESSION: ContextVar[Registry | None] = ContextVar("registry of the running command", default=None)


@contextmanager
def registry_session(registry: Registry) -> Iterator[None]:
    """Make a registry the default one while a command runs."""
    token = _SESSION.set(registry)
    try:
        yield
    finally:
        _SESSION.reset(token)


def default_registry() -> Registry:
    """Return the registry of the running command; outside of one, that of this process, made at the first call.

    Raises PluginError with DFM_STRICT_PLUGINS, if an installed plugin cannot be used.
    """
    return _SESSION.get() or _process_registry()


@functools.cache
def _process_registry() -> Registry:
    registry = Registry.discover()
    if is_strict(os.environ):
        registry.require_all()
    return registry
