"""Which plugins are installed: entry points of the group `dfm_core`, read without importing anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version

from dfm_core.plugins.specs import ComponentSpec, PresetSpec

GROUP = "dfm_core"
BUILTIN = "builtin"
"""Namespace of the distribution that ships dfm_core; its components have bare names."""
DISTRIBUTION = "decomposable-flow-matching"
"""The distribution that ships dfm_core: the only one that may claim BUILTIN."""
DISABLE_VARIABLE = "DFM_DISABLE_PLUGINS"

_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_-]*")


class PluginState(StrEnum):
    """How far a plugin has come."""

    NOT_LOADED = "not loaded"
    LOADED = "loaded"
    BROKEN = "broken"
    CONFLICT = "conflict"
    INCOMPATIBLE = "incompatible"
    DISABLED = "disabled"


@dataclass(frozen=True)
class PluginInfo:
    """One claim of a namespace. distribution, version: who makes it. address: "package.module" of the plugin."""

    namespace: str
    distribution: str
    version: str
    address: str

    @property
    def is_builtin(self) -> bool:
        """Whether its components have bare names."""
        return self.namespace == BUILTIN

    @property
    def provider(self) -> str:
        """The distribution and its version, "dfm-acme 1.2"."""
        return f"{self.distribution} {self.version}"

    def full_name(self, name: str) -> str:
        """Name of a component as users write it: bare for the built-in plugin, else namespace/name."""
        return name if self.is_builtin else f"{self.namespace}/{name}"


@dataclass(frozen=True)
class PluginRecord:
    """A plugin and what is known of it.

    message: why it cannot be used. traceback: of the error that broke it. components: kind -> name -> spec, and
    presets: name -> spec; both empty unless it is loaded.
    """

    info: PluginInfo
    state: PluginState = PluginState.NOT_LOADED
    message: str = ""
    traceback: str = ""
    components: Mapping[str, Mapping[str, ComponentSpec]] = field(default_factory=dict)
    presets: Mapping[str, PresetSpec] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A record and the entry point behind it."""

    record: PluginRecord
    entry_point: EntryPoint


def installed_version() -> str:
    """Version of the installed framework, or "unknown" where it runs without being installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def disabled_namespaces(environment: Mapping[str, str]) -> frozenset[str]:
    """Namespaces in DFM_DISABLE_PLUGINS, separated by commas; `all` stands for everything but the built-in plugin."""
    return frozenset(part.strip() for part in environment.get(DISABLE_VARIABLE, "").split(",") if part.strip())


def discover(disabled: frozenset[str] = frozenset()) -> tuple[Claim, ...]:
    """List the claims of all installed distributions, the built-in plugin first; imports none of them."""
    claims = [Claim(PluginRecord(_info(point)), point) for point in entry_points(group=GROUP)]
    claims.sort(key=lambda claim: (not claim.record.info.is_builtin, claim.record.info.namespace))
    return tuple(Claim(_judge(claim.record, claims, disabled), claim.entry_point) for claim in claims)


def _info(point: EntryPoint) -> PluginInfo:
    distribution = point.dist
    metadata = distribution.metadata if distribution is not None else None
    name, number = (metadata["Name"], metadata["Version"]) if metadata is not None else (None, None)
    return PluginInfo(point.name, str(name or "unknown"), str(number or "unknown"), point.value)


def _judge(record: PluginRecord, claims: Iterable[Claim], disabled: frozenset[str]) -> PluginRecord:
    """Refuse what can be refused before loading: an ill-named, disputed or disabled namespace."""
    info = record.info
    if not _NAMESPACE.fullmatch(info.namespace):
        message = (
            f"{info.provider}: expected a namespace of lower-case letters, digits, - and _, got {info.namespace!r}"
        )
        return PluginRecord(info, PluginState.BROKEN, message)
    conflict = _conflict(info, [claim.record.info for claim in claims])
    if conflict:
        return PluginRecord(info, PluginState.CONFLICT, conflict)
    if info.namespace in disabled or ("all" in disabled and not info.is_builtin):
        message = f"plugin {info.namespace!r} of {info.provider} is disabled by {DISABLE_VARIABLE}"
        return PluginRecord(info, PluginState.DISABLED, message)
    return record


def _conflict(info: PluginInfo, infos: Iterable[PluginInfo]) -> str:
    if info.is_builtin and not _ships_core(info):
        return f"namespace {BUILTIN!r} belongs to {DISTRIBUTION}; the claim of {info.provider} is not used"
    rivals = [other for other in infos if other.namespace == info.namespace]
    if info.is_builtin:
        rivals = [other for other in rivals if _ships_core(other)]
    if len(rivals) == 1:
        return ""
    names = " and ".join(f"{rival.provider} ({rival.address})" for rival in rivals)
    return f"namespace {info.namespace!r} is claimed by {names}; none is loaded: uninstall all but one"


def _ships_core(info: PluginInfo) -> bool:
    return re.sub(r"[-_.]+", "-", info.distribution).lower() == DISTRIBUTION
