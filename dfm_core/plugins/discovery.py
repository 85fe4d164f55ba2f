"""Which plugins there are: entry points of the group `dfm_core` and given files, read without importing anything."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path

from dfm_core.errors import PluginError, suggest
from dfm_core.plugins.plugin_file import PluginFile
from dfm_core.plugins.specs import ComponentSpec, PresetSpec

GROUP = "dfm_core"
BUILTIN = "builtin"
"""Namespace of the distribution that ships dfm_core; its components have bare names."""
DISTRIBUTION = "decomposable-flow-matching"
"""The distribution that ships dfm_core: the only one that may claim BUILTIN."""
DISABLE_VARIABLE = "DFM_DISABLE_PLUGINS"
STRICT_VARIABLE = "DFM_STRICT_PLUGINS"
ALL = "all"
"""In the place of a namespace: every plugin but the built-in one."""

_LOGGER = logging.getLogger("dfm")
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_-]*")
_WORDS = "lower-case letters, digits, - and _"
_FALSE = frozenset({"", "0", "false", "no", "off"})


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
    """One claim of a namespace.

    distribution, version: who makes it; of a file, its name and hash. address: "package.module" of the plugin, or the
    file's path. file: the plugin file, None for what is installed.
    """

    namespace: str
    distribution: str
    version: str
    address: str
    file: PluginFile | None = None

    @property
    def is_builtin(self) -> bool:
        """Whether its components have bare names."""
        return self.namespace == BUILTIN

    @property
    def provider(self) -> str:
        """The distribution and its version, "dfm-acme 1.2"; of a file "acme.py (sha256 0123456789ab)"."""
        return f"{self.distribution} {self.version}" if self.file is None else f"{self.distribution} ({self.version})"

    def full_name(self, name: str) -> str:
        """Name of a component as users write it: bare for the built-in plugin, else namespace/name."""
        return name if self.is_builtin else f"{self.namespace}/{name}"


@dataclass(frozen=True)
class PluginRecord:
    """A plugin and what is known of it.

    message: why it cannot be used. traceback, cause: of the error that broke it. components: kind -> name -> spec, and
    presets: name -> spec; both empty unless it is loaded.
    """

    info: PluginInfo
    state: PluginState = PluginState.NOT_LOADED
    message: str = ""
    traceback: str = ""
    cause: BaseException | None = field(default=None, repr=False, compare=False)
    components: Mapping[str, Mapping[str, ComponentSpec]] = field(default_factory=dict)
    presets: Mapping[str, PresetSpec] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A record and where its plugin comes from."""

    record: PluginRecord
    source: EntryPoint | PluginFile


def installed_version() -> str:
    """Version of the installed framework, or "unknown" where it runs without being installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def disabled_namespaces(environment: Mapping[str, str]) -> dict[str, str]:
    """Namespaces in DFM_DISABLE_PLUGINS, separated by commas or `all`, each with who disables it: that variable.

    Raises PluginError where it names the built-in plugin.
    """
    parts = [part.strip() for part in environment.get(DISABLE_VARIABLE, "").split(",")]
    if BUILTIN in parts:
        raise PluginError(
            f"{DISABLE_VARIABLE}: expected namespaces of other plugins, or {ALL}, got {BUILTIN!r}: nothing works "
            "without the built-in plugin"
        )
    return {part: DISABLE_VARIABLE for part in parts if part}


def is_strict(environment: Mapping[str, str]) -> bool:
    """Whether DFM_STRICT_PLUGINS asks that every installed plugin can be used."""
    return environment.get(STRICT_VARIABLE, "").strip().lower() not in _FALSE


def discover(disabled: Mapping[str, str] | None = None, files: Sequence[str | Path] = ()) -> tuple[Claim, ...]:
    """List the claims of all installed distributions, the built-in plugin first, then those of `files`; imports none.

    disabled: namespace or `all` -> who disables it; one that nobody has is warned of. Raises PluginError for a file
    that is missing, no Python or of a namespace that another plugin has.
    """
    claims = [Claim(PluginRecord(_info(point)), point) for point in entry_points(group=GROUP)]
    claims.sort(key=lambda claim: (not claim.record.info.is_builtin, claim.record.info.namespace))
    infos = [claim.record.info for claim in claims]
    _warn_of_unknown(disabled or {}, {info.namespace for info in infos})
    installed = [Claim(_judge(claim.record, infos, disabled or {}), claim.source) for claim in claims]
    given = {file.path: file for file in map(PluginFile.read, files)}.values()
    for file in given:
        _check_namespace(file, [claim.record for claim in installed], given)
    return (*installed, *(_file_claim(file) for file in given))


def _warn_of_unknown(disabled: Mapping[str, str], known: Collection[str]) -> None:
    """Warn where something is disabled that is not there: a misspelt name would leave a plugin on."""
    for namespace, who in disabled.items():
        if namespace not in (ALL, *known):
            _LOGGER.warning("%s: no installed plugin is called %r.%s", who, namespace, suggest(namespace, known))


def _info(point: EntryPoint) -> PluginInfo:
    distribution = point.dist
    metadata = distribution.metadata if distribution is not None else None
    name, number = (metadata["Name"], metadata["Version"]) if metadata is not None else (None, None)
    return PluginInfo(point.name, str(name or "unknown"), str(number or "unknown"), point.value)


def _file_claim(file: PluginFile) -> Claim:
    return Claim(PluginRecord(PluginInfo(file.namespace, file.path.name, file.version, str(file.path), file)), file)


def _check_namespace(file: PluginFile, installed: Iterable[PluginRecord], given: Iterable[PluginFile]) -> None:
    """Raise PluginError unless the file's name is a namespace that nobody else has."""
    namespace, who = file.namespace, f"plugin file {file.path}"
    if not _NAMESPACE.fullmatch(namespace):
        raise PluginError(f"{who}: its name is its namespace, expected {_WORDS}, got {namespace!r}; rename the file")
    if namespace in (BUILTIN, ALL):
        raise PluginError(f"{who}: the namespace {namespace!r} is taken by {DISTRIBUTION} itself; rename the file")
    rivals = [other for other in given if other.namespace == namespace and other.path != file.path]
    if rivals:
        raise PluginError(f"{who}: {rivals[0].path} has the same namespace, {namespace!r}; rename one of them")
    for record in installed:
        if record.info.namespace == namespace and record.state is not PluginState.DISABLED:
            raise PluginError(
                f"{who}: the installed plugin of {record.info.provider} has the same namespace, {namespace!r}; rename "
                f"the file, or leave the installed one out with {DISABLE_VARIABLE}={namespace}"
            )


def _judge(record: PluginRecord, infos: Sequence[PluginInfo], disabled: Mapping[str, str]) -> PluginRecord:
    """Refuse what can be refused before loading: a disabled, ill-named or disputed namespace."""
    info = record.info
    disabled_by = disabled.get(info.namespace) or (None if _is_core_itself(info) else disabled.get(ALL))
    if disabled_by:
        message = f"plugin {info.namespace!r} of {info.provider} is disabled by {disabled_by}"
        return PluginRecord(info, PluginState.DISABLED, message)
    if not _NAMESPACE.fullmatch(info.namespace):
        message = f"{info.provider}: expected a namespace of {_WORDS}, got {info.namespace!r}"
        return PluginRecord(info, PluginState.BROKEN, message)
    conflict = _conflict(info, infos)
    return PluginRecord(info, PluginState.CONFLICT, conflict) if conflict else record


def _conflict(info: PluginInfo, infos: Iterable[PluginInfo]) -> str:
    if info.is_builtin and not _is_core_itself(info):
        return f"namespace {BUILTIN!r} belongs to {DISTRIBUTION}; the claim of {info.provider} is not used"
    rivals = [other for other in infos if other.namespace == info.namespace]
    if info.is_builtin:
        rivals = [other for other in rivals if _is_core_itself(other)]
    if len(rivals) == 1:
        return ""
    names = " and ".join(f"{rival.provider} ({rival.address})" for rival in rivals)
    return f"namespace {info.namespace!r} is claimed by {names}; none is loaded: uninstall all but one"


def _is_core_itself(info: PluginInfo) -> bool:
    ships_core = re.sub(r"[-_.]+", "-", info.distribution).lower() == DISTRIBUTION
    return info.is_builtin and ships_core
