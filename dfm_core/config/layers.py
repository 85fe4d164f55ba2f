"""Layers of a configuration and how one covers another, each value keeping its origin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dfm_core.config.run_config import RunConfig, expand_choice
from dfm_core.config.settings import Section
from dfm_core.config.yaml_text import parse_yaml
from dfm_core.errors import ConfigError
from dfm_core.plugins.kinds import RUN_KINDS

_SECTIONS = {
    name
    for name, info in RunConfig.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
}
_OPTIONS = {f"{kind}.options": kind for kind in RUN_KINDS}


@dataclass(frozen=True)
class Leaf:
    """One value. origin: where it came from. soft: a default, which goes without a word when it no longer fits."""

    value: object
    origin: str
    soft: bool = False


@dataclass
class Layer:
    """Values from one level of precedence, by dotted key; filled with `put`.

    cleared: kinds whose options of lower layers go (`options: {}`). whole: kinds whose options were written as one
    mapping, which stands alone where this layer also chooses another component.
    """

    leaves: dict[str, Leaf] = field(default_factory=dict)
    cleared: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, values: Mapping[str, Any], origin: str, soft: bool = False) -> Layer:
        """Layer of nested values that all come from one place."""
        layer = cls()
        for key, value in values.items():
            layer.put(str(key), value, origin, soft)
        return layer

    def put(self, key: str, value: object, origin: str, soft: bool = False) -> None:
        """Set a dotted key. A mapping is laid over what is there; an empty one as a component's options replaces it."""
        if key in RUN_KINDS:
            value = expand_choice(value)
        if key in _OPTIONS and isinstance(value, Mapping):
            self.whole.add(_OPTIONS[key])
            if not value:
                self.cleared.add(_OPTIONS[key])
                drop_below(self.leaves, key)
        if value is None and (key in _SECTIONS or key in _OPTIONS):
            return  # a heading in YAML with nothing under it
        if is_branch(key, value):
            for name, part in value.items():  # type: ignore[attr-defined]
                self.put(f"{key}.{name}", part, origin, soft)
        else:
            set_leaf(self.leaves, key, Leaf(value, origin, soft))

    def put_settings(self, settings: Iterable[str]) -> None:
        """Put every KEY=VALUE of `--set`, values read as YAML. Raises ConfigError for anything else."""
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals or not all(key.split(".")):
                raise ConfigError(f"--set {setting!r}: expected KEY=VALUE, such as training.max_steps=1000")
            self.put(key, parse_yaml(text, f"--set {setting!r}"), "--set")


def is_branch(key: str, value: object) -> bool:
    """Whether a value is taken apart into dotted keys: a mapping of names, or an empty one where a section stands."""
    if not isinstance(value, Mapping):
        return False
    names = all(isinstance(name, str) and name and "." not in name for name in value)
    return names and (bool(value) or key in _SECTIONS or key in _OPTIONS)


def set_leaf(leaves: dict[str, Leaf], key: str, leaf: Leaf) -> None:
    """Set a leaf; what stood above or below its key goes."""
    drop_below(leaves, key)
    parts = key.split(".")
    for length in range(1, len(parts)):
        leaves.pop(".".join(parts[:length]), None)
    leaves[key] = leaf


def below(leaves: Mapping[str, Leaf], key: str) -> dict[str, Leaf]:
    """The leaves whose keys continue `key`."""
    return {name: leaf for name, leaf in leaves.items() if name.startswith(f"{key}.")}


def drop_below(leaves: dict[str, Leaf], key: str) -> None:
    """Remove the leaves whose keys continue `key`."""
    for name in below(leaves, key):
        del leaves[name]


def merge(layers: Iterable[Layer]) -> dict[str, Leaf]:
    """Lay the layers over each other, lowest first.

    Raises ConfigError where a layer chooses another component while options of the old one remain.
    """
    merged: dict[str, Leaf] = {}
    for layer in layers:
        for kind in RUN_KINDS:
            _change_component(merged, layer, kind)
        for key, leaf in layer.leaves.items():
            set_leaf(merged, key, leaf)
    return merged


def _change_component(merged: dict[str, Leaf], layer: Layer, kind: str) -> None:
    old, new = merged.get(f"{kind}.name"), layer.leaves.get(f"{kind}.name")
    renamed = old is not None and new is not None and old.value != new.value
    options = f"{kind}.options"
    if kind in layer.cleared or (renamed and kind in layer.whole):
        drop_below(merged, options)
        return
    if not renamed or old is None or new is None:
        return
    # What this layer says anew is no remainder: `--dataset webdataset --data PATH` over a preset's folder.
    left = {key: leaf for key, leaf in below(merged, options).items() if not leaf.soft and key not in layer.leaves}
    if left:
        named = ", ".join(f"{key} (from {leaf.origin})" for key, leaf in left.items())
        raise ConfigError(
            f"{kind}: {new.value!r} (from {new.origin}) takes the place of {old.value!r} (from {old.origin}), "
            f"but options of the old one remain: {named}. "
            f"Drop them with --set {options}={{}} or, in a file, options: {{}}"
        )
    drop_below(merged, options)


def nest(leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    """Turn dotted keys back into nested values."""
    nested: dict[str, Any] = {}
    for key, leaf in leaves.items():
        *path, last = key.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = leaf.value
    return nested
