"""Sweeps: values of keys of a configuration to variants, one a combination. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from dfm_core.config.yaml_text import parse_yaml
from dfm_core.errors import ConfigError

Sweep = Mapping[str, list[Any] | dict[str, Any]]
"""Dotted key -> its values, or name -> value."""


def sweep_levels(sweep: Sweep, together: bool = False) -> dict[str, dict[str, Any]]:
    """Return name -> {dotted key: value} of every combination. together: of the n-th values of all keys only.

    Raises ConfigError for a key without values, for lists of different lengths that are taken together, and for two
    combinations of one name.
    """
    axes = [[(key, *pair) for pair in named(key, values)] for key, values in sweep.items()]
    if together and len({len(axis) for axis in axes}) > 1:
        lengths = ", ".join(f"{key} {len(axis)}" for key, axis in zip(sweep, axes, strict=True))
        raise ConfigError(f"sweep: values taken together must be as many for every key, got {lengths}")
    chosen = zip(*axes, strict=True) if together else itertools.product(*axes)
    levels: dict[str, dict[str, Any]] = {}
    for combination in chosen:
        name = ", ".join(label for _, label, _ in combination)
        if name in levels:
            raise ConfigError(f"sweep: two variants are called {name!r}; name the values: KEY: {{NAME: VALUE, …}}")
        levels[name] = {key: value for key, _, value in combination}
    return levels


def named(key: str, values: Sequence[Any] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Pairs of name and value of one key: the names that were given, or what the values say."""
    if not values:
        raise ConfigError(f"sweep: {key} has no values")
    if isinstance(values, Mapping):
        return [(str(name), value) for name, value in values.items()]
    short = short_key(key)
    return [(f"{short}={write_value(value)}", value) for value in values]


def short_key(key: str) -> str:
    """What of a dotted key says enough: decomposition.options.filter -> filter, decomposition.name -> decomposition."""
    parts = key.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def write_value(value: Any) -> str:
    """A value as part of a folder's name: [30, 10] -> 30-10, [[8, 16], 32] -> 8x16-32."""
    if isinstance(value, list | tuple):
        inner = ["x".join(map(write_value, part)) if isinstance(part, list) else write_value(part) for part in value]
        return "-".join(inner)
    if isinstance(value, Mapping):
        options = value.get("options") or {}
        rest = [f"{name}={write_value(part)}" for name, part in options.items()]
        return " ".join([write_value(value.get("name", "")), *rest])
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value).replace("/", "-").replace("\\", "-")


def read_sweep(texts: Sequence[str]) -> dict[str, list[Any] | dict[str, Any]]:
    """Read every KEY=V1,V2,… of the command line, values as in a YAML list. Raises ConfigError."""
    sweep: dict[str, list[Any] | dict[str, Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values.strip() or not all(key.split(".")):
            raise ConfigError(f"--sweep {text!r}: expected KEY=V1,V2,…, such as training.learning_rate=1e-3,2e-3")
        if key in sweep:
            raise ConfigError(f"--sweep {key}: stands twice; give all values at once: {key}=V1,V2,…")
        sweep[key] = parse_yaml(f"[{values}]", f"--sweep {text!r}")
    return sweep
