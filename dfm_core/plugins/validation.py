"""Pydantic's errors as sentences: the path, what was expected, what came, where it came from, the nearest name."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dfm_core.errors import ConfigError, suggest

Model = TypeVar("Model", bound=BaseModel)


def validate(
    model: type[Model], values: Mapping[str, object], path: str = "", origins: Mapping[str, str] | None = None
) -> Model:
    """Build `model` from `values`.

    path: dotted path of the values in the configuration. origins: where each dotted path came from. Raises ConfigError
    with one line a mistake.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(describe_errors(error, model, path, origins or {}))) from error


def describe_errors(error: ValidationError, model: type[BaseModel], path: str, origins: Mapping[str, str]) -> list[str]:
    """One line for each path that is wrong."""
    expected: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        location, known = _follow(model, detail["loc"])
        full = ".".join((path, *location) if path else location)
        if detail["type"] == "extra_forbidden":
            expected[full] = [f"unknown key.{_nearest(location, known, model, path)}"]
            continue
        expected.setdefault(full, []).append(_sentence(detail))
        if detail["type"] not in ("missing", "value_error"):
            got[full] = f", got {detail['input']!r:.80}"
    return [_line(full, reasons, got.get(full, ""), origins) for full, reasons in expected.items()]


def _nearest(location: Sequence[str], known: Sequence[str], model: type[BaseModel], path: str) -> str:
    """Suggest keys: near ones beside it, else the same name somewhere else in the model."""
    *parents, last = [*path.split("."), *location] if path else location
    elsewhere = [] if path else [key for key in dotted_keys(model) if key.rpartition(".")[2] == last]
    near = "" if elsewhere else suggest(last, known)
    if not near and not elsewhere and "options" in known:
        elsewhere = [".".join((*parents, "options", last))]
    if elsewhere:
        return f" Did you mean {', '.join(map(repr, elsewhere))}?"
    return near or f" Known: {', '.join(known) or 'none'}."


def dotted_keys(model: type[BaseModel]) -> list[str]:
    """All keys of a model and of the models in its fields."""
    keys: list[str] = []
    for name, info in model.model_fields.items():
        inner = _model_in(info.annotation)
        keys += [name] if inner is None else [f"{name}.{key}" for key in dotted_keys(inner)]
    return keys


def origin_of(path: str, origins: Mapping[str, str]) -> str | None:
    """Origin of a path, or of the nearest path above or below it that has one."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        found = origins.get(".".join(parts[:length]))
        if found is not None:
            return found
    return next((origin for key, origin in origins.items() if key.startswith(f"{path}.")), None)


def _line(full: str, reasons: Iterable[str], got: str, origins: Mapping[str, str]) -> str:
    origin = origin_of(full, origins)
    source = f" (from {origin})" if origin else ""
    return f"{full}: {' or '.join(dict.fromkeys(reasons))}{got}{source}"


def _sentence(detail: Any) -> str:
    if detail["type"] == "missing":
        return "expected a value, got none"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] in ("dict_type", "model_type"):
        return "expected keys and values"
    message = str(detail["msg"])
    return "expected " + message.removeprefix("Input should be ") if message.startswith("Input should be ") else message


def _follow(model: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], list[str]]:
    """Walk an error's location through the models: (path without the tags of unions, field names known at its end)."""
    path: list[str] = []
    known: list[str] = []
    current: Any = model
    for part in location:
        if isinstance(part, int):
            path.append(str(part))
            current = _item_type(current)
            continue
        inner = _model_in(current)
        if inner is None:
            if get_origin(_bare(current)) is dict:
                path.append(part)
            continue  # a tag that names the member of a union
        known = list(inner.model_fields)
        path.append(part)
        current = inner.model_fields[part].annotation if part in inner.model_fields else None
    return path, known


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    bare = _bare(annotation)
    return get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (bare,)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    members = map(_bare, _members(annotation))
    return next((member for member in members if isinstance(member, type) and issubclass(member, BaseModel)), None)


def _item_type(annotation: Any) -> Any:
    for member in map(_bare, _members(annotation)):
        if get_origin(member) in (list, tuple):
            return get_args(member)[0] if get_args(member) else None
    return None
