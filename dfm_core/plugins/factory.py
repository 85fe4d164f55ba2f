"""From a spec to an object: check the options, import the factory, call it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel

from dfm_core.errors import DFMError, PluginError
from dfm_core.plugins.discovery import PluginInfo
from dfm_core.plugins.kinds import Kind
from dfm_core.plugins.specs import ComponentSpec
from dfm_core.plugins.validation import validate


@dataclass(frozen=True)
class ResolvedSpec:
    """A component's spec, its kind and the plugin that supplies it."""

    spec: ComponentSpec
    kind: Kind
    plugin: PluginInfo

    @property
    def name(self) -> str:
        """Name as users write it: bare or namespace/name."""
        return self.plugin.full_name(self.spec.name)

    def __str__(self) -> str:
        return f"{self.kind.title} {self.name!r} of {self.plugin.provider}"


def validate_options(
    resolved: ResolvedSpec,
    options: Mapping[str, object],
    path: str | None = None,
    origins: Mapping[str, str] | None = None,
) -> BaseModel:
    """Build the component's options. path: where they stand in the configuration. Raises ConfigError."""
    return validate(resolved.spec.options, options, f"{resolved.kind.name}.options" if path is None else path, origins)


def load_factory(resolved: ResolvedSpec) -> type[Any]:
    """Import the class behind a spec. Raises PluginError, naming the distribution, if it is not what the spec says."""
    address = resolved.spec.factory
    try:
        with _own_output(resolved):
            component = _import(address)
        interface = _import(resolved.kind.interface)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"{resolved}: its factory {address!r} cannot be imported: {reason}") from error
    if not (isinstance(component, type) and issubclass(component, interface)):
        expected = resolved.kind.interface.replace(":", ".")
        raise PluginError(f"{resolved}: expected {address!r} to be a subclass of {expected}, got {component!r}")
    if inspect.isabstract(component):
        missing = ", ".join(sorted(getattr(component, "__abstractmethods__", ())))
        raise PluginError(f"{resolved}: {address!r} leaves out what its kind must have: {missing}")
    _check_collision(resolved, interface)
    return component


def build(resolved: ResolvedSpec, options: Mapping[str, object] | BaseModel, facts: object) -> Any:
    """Build the component. Raises ConfigError for its options and PluginError for faults of a third party's code."""
    values = options.model_dump() if isinstance(options, BaseModel) else options
    checked = validate_options(resolved, values)
    component = load_factory(resolved)
    if resolved.plugin.is_builtin:
        return component(checked, facts)
    try:
        with _own_output(resolved):
            made = component(checked, facts)
    except DFMError:
        raise
    except Exception as error:
        raise PluginError(f"{resolved} failed while it was built: {type(error).__name__}: {error}") from error
    if not hasattr(made, "facts"):
        raise PluginError(f"{resolved}: its __init__ must call super().__init__(options, facts), and does not")
    return made


def _own_output(resolved: ResolvedSpec) -> contextlib.AbstractContextManager[object]:
    """What a third party's code prints while it is made must not end up in the output of a command."""
    return contextlib.nullcontext() if resolved.plugin.is_builtin else contextlib.redirect_stdout(sys.stderr)


def _import(address: str) -> Any:
    module, _, attribute = address.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _check_collision(resolved: ResolvedSpec, interface: type[Any]) -> None:
    """An option and a fact of one name would leave in doubt whether the user or core decides."""
    facts = get_type_hints(interface.__init__).get("facts")
    names = {field.name for field in dataclasses.fields(facts)} if dataclasses.is_dataclass(facts) else set()
    both = sorted(names & set(resolved.spec.options.model_fields))
    if both:
        raise PluginError(f"{resolved}: its options repeat facts of core: {', '.join(both)}; rename or drop them")
