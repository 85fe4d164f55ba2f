"""YAML in and out: numbers and texts as people mean them, and no key twice."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from dfm_core.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number, 12:30, 2026-01-01 and no as texts, and a repeated key as an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what `_Loader` would not read as a text, and writes lists on one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


_FLOAT = r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_INT = r"[-+]?(?:0|[1-9][0-9]*)"
_BOOL = r"true|True|TRUE|false|False|FALSE"
_REPLACED = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "float", "int", "bool")}
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {first: list(resolvers) for first, resolvers in _RESOLVERS.items()}
    for _tag, _pattern, _first in (
        ("float", _FLOAT, "-+.0123456789"),
        ("int", _INT, "-+0123456789"),
        ("bool", _BOOL, "tTfF"),
    ):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


def parse_yaml(text: str, source: str) -> Any:
    """Read one YAML document. source: names it in errors. Raises ConfigError with line and column."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{source}{where}: expected YAML: {problem}") from error


def read_mapping(path: Path, source: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file is an empty one. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigError(f"{source}: cannot be read: {reason}") from error
    values = parse_yaml(text, source)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected keys and values, got {type(values).__name__}")
    return values


def write_yaml(values: Any) -> str:
    """Write plain data as YAML, keys in their order."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True))
