"""A component or a plugin in plain data: what `dfm plugins show` prints."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from dfm_core.plugins.discovery import PluginRecord
from dfm_core.plugins.factory import ResolvedSpec

REQUIRED = "required"
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class OptionRow:
    """One option. default: plain data, or REQUIRED."""

    name: str
    type: str
    default: object
    description: str


def describe_component(resolved: ResolvedSpec) -> dict[str, Any]:
    """Everything that is known of a component without importing it."""
    spec = resolved.spec
    return {
        "name": resolved.name,
        "kind": resolved.kind.name,
        "plugin": resolved.plugin.namespace,
        "distribution": resolved.plugin.distribution,
        "version": resolved.plugin.version,
        "summary": spec.summary,
        "reference": spec.reference,
        "factory": spec.factory,
        "capabilities": {name: _plain(value) for name, value in spec.capabilities().items()},
        "options": [vars(row) for row in describe_options(spec.options)],
    }


def describe_plugin(record: PluginRecord) -> dict[str, Any]:
    """Everything that is known of a plugin now."""
    info = record.info
    return {
        "plugin": info.namespace,
        "distribution": info.distribution,
        "version": info.version,
        "module": info.address,
        "state": str(record.state),
        "note": record.message,
        "traceback": record.traceback,
        "components": {
            kind: [{"name": info.full_name(name), "summary": spec.summary} for name, spec in specs.items()]
            for kind, specs in record.components.items()
        },
        "presets": [
            {"name": info.full_name(name), "summary": preset.summary} for name, preset in record.presets.items()
        ],
    }


def describe_options(model: type[BaseModel]) -> list[OptionRow]:
    """One row an option, in the model's order."""
    return [
        OptionRow(name, _field_type(info), _default(info), info.description or "")
        for name, info in model.model_fields.items()
    ]


def type_text(annotation: Any) -> str:
    """Write a type as people read it: Literal["a", "b"] -> "a | b", tuple[int, ...] -> "list of int"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0]) + _bounds(arguments[1:])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_text, arguments))
    if origin in (list, set, frozenset) or (origin is tuple and arguments[-1] is ...):
        return f"list of {type_text(arguments[0])}"
    if origin is tuple:
        return "[" + ", ".join(map(type_text, arguments)) + "]"
    if origin is dict:
        return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if annotation in (None, types.NoneType):
        return "null"
    return str(getattr(annotation, "__name__", annotation))


def _field_type(info: FieldInfo) -> str:
    text, null, _ = type_text(info.annotation).partition(" | null")
    return text + _bounds(info.metadata) + null


def _bounds(metadata: Any) -> str:
    found = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            found.append(_bounds(item.metadata))
        found += [f" {sign} {getattr(item, name)}" for name, sign in _BOUNDS.items() if _has(item, name)]
    return "".join(found)


def _has(item: object, name: str) -> bool:
    return isinstance(getattr(item, name, None), int | float)


def _default(info: FieldInfo) -> object:
    value = info.default if info.default_factory is None else info.get_default(call_default_factory=True)
    return REQUIRED if value is PydanticUndefined else to_jsonable_python(value, fallback=str)


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set | frozenset) else value
