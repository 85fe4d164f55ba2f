"""Sentences for a component that nobody has: the near names, the kind that has it, or what there is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dfm_core.errors import suggest
from dfm_core.plugins.discovery import PluginRecord
from dfm_core.plugins.kinds import KINDS, Kind

LISTED = "`dfm plugins list` shows what there is"


def unknown_component(
    kind: Kind, name: str, record: PluginRecord, known: Sequence[str], namespaces: Collection[str]
) -> str:
    """What to say of a name that its plugin does not have for this kind, in any spelling.

    record: the plugin. known: all names of the kind that are loaded. namespaces: of plugins beside the built-in one.
    """
    spelt = name.rpartition("/")[2].strip().lower().replace("-", "_").replace(" ", "_")
    unknown = f"unknown {kind.title} {name!r}."
    if record.info.is_builtin:
        return f"{unknown}{_hint_of_builtin(kind, spelt, record, known, namespaces)} {LISTED}"
    near = suggest(spelt, record.components.get(kind.name, {})).replace(" '", f" '{record.info.namespace}/")
    return f"{unknown}{near or _other_kinds(spelt, record) or contents(record, kind)} {LISTED}"


def contents(record: PluginRecord, kind: Kind | None = None) -> str:
    """Sentence with the components of a loaded plugin: of a kind, where it has any of it, else of all."""
    own = record.components.get(kind.name, {}) if kind is not None else {}
    names = own or [name for specs in record.components.values() for name in specs]
    listed = ", ".join(dict.fromkeys(record.info.full_name(name) for name in names))
    return f" {record.info.provider} has {listed or 'no components'}."


def _hint_of_builtin(
    kind: Kind, spelt: str, record: PluginRecord, known: Sequence[str], namespaces: Collection[str]
) -> str:
    namesakes = [other for other in known if other.endswith(f"/{spelt}")]
    hint = suggest(spelt, record.components.get(kind.name, {})) or _other_kinds(spelt, record)
    if namesakes:
        hint = f" Did you mean {', '.join(map(repr, namesakes))}?"
    if spelt in namespaces:
        return f" {spelt!r} is a plugin: write {spelt}/NAME; `dfm plugins show {spelt}` lists what it has."
    if namespaces:
        hint += f" Components of other plugins are written namespace/name ({', '.join(namespaces)})."
    return hint


def _other_kinds(spelt: str, record: PluginRecord) -> str:
    elsewhere = [KINDS[other].title for other, specs in record.components.items() if spelt in specs]
    return f" {spelt!r} is a {' and a '.join(elsewhere)}." if elsewhere else ""
