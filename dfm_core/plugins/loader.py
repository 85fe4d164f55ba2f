"""Load one plugin: import it, ask its hooks, check what they list. Whatever fails stays in that plugin's record."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.util
import inspect
import sys
import traceback
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

import pluggy

from dfm_core.errors import suggest
from dfm_core.plugins.discovery import Claim, PluginRecord, PluginState
from dfm_core.plugins.hookspecs import API_VERSION, HOOKS, PROJECT, hook_specifications
from dfm_core.plugins.kinds import KINDS
from dfm_core.plugins.plugin_file import PluginFile
from dfm_core.plugins.spec_checks import fault_of

API_LITERAL = "DFM_PLUGIN_API"


class _Unusable(Exception):
    """Something in a plugin is not as it must be."""


class _Incompatible(_Unusable):
    """The plugin was written for another API."""


def load_plugin(claim: Claim) -> PluginRecord:
    """Load a plugin and return its new record: loaded, incompatible or broken. Never raises for the plugin's faults."""
    info = claim.record.info
    who = f"plugin {info.namespace!r} of {info.provider}"
    try:
        # What a plugin prints while it is imported must not end up in the output of a command.
        with contextlib.redirect_stdout(sys.stderr):
            listed = _ask_hooks(_import(claim.source))
        if not any(listed.values()):
            raise _Unusable(
                f"it lists nothing; expected a function such as {next(iter(HOOKS))}(), marked with @hookimpl, that "
                "returns a list of specs"
            )
        if isinstance(claim.source, PluginFile):
            _check_file(claim.source, listed)
    except _Incompatible as error:
        return dataclasses.replace(
            claim.record, state=PluginState.INCOMPATIBLE, message=f"{who} is incompatible: {error}"
        )
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, _Unusable) else f"{type(error).__name__}: {error}"
        if isinstance(claim.source, PluginFile) and isinstance(error, ModuleNotFoundError):
            reason += "; a plugin file is loaded alone: what has several files is a package (`dfm plugins new`)"
        return dataclasses.replace(
            claim.record,
            state=PluginState.BROKEN,
            message=f"{who} is broken: {reason}",
            traceback=traceback.format_exc(),
            cause=error,
        )
    return dataclasses.replace(
        claim.record,
        state=PluginState.LOADED,
        components={kind.name: listed[kind.hook] for kind in KINDS.values()},
        presets=listed["dfm_presets"],
    )


def _import(source: EntryPoint | PluginFile) -> Any:
    try:
        plugin = source.load()
    except (Exception, SystemExit):
        # A plugin for another API may fail at its imports; its literal then tells why.
        declared = _declared_api(source)
        if declared is not None and declared != API_VERSION:
            raise _Incompatible(_api_message(declared)) from None
        raise
    declared = getattr(plugin, API_LITERAL, None)
    if type(declared) is not int or declared != API_VERSION:
        raise _Incompatible(_api_message(declared))
    return plugin


def _api_message(declared: object) -> str:
    if declared is None:
        return f"it declares no {API_LITERAL}; expected `{API_LITERAL} = {API_VERSION}` in the plugin's module"
    if type(declared) is not int:
        return f"expected {API_LITERAL} = {API_VERSION}, got {declared!r}"
    advice = "update the plugin" if declared < API_VERSION else "update decomposable-flow-matching"
    return f"it was written for plugin API {declared}, this is {API_VERSION}; {advice}"


def _declared_api(source: EntryPoint | PluginFile) -> int | None:
    """Read the literal from the source of a module that cannot be imported."""
    try:
        statements = ast.parse(source.source if isinstance(source, PluginFile) else _source_code(source.module)).body
    except (Exception, SystemExit):
        return None
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=int(value))) if name == API_LITERAL:
                return value
    return None


def _source_code(module: str) -> bytes:
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).read_bytes() if spec is not None and spec.origin else b""


def _check_file(file: PluginFile, listed: dict[str, dict[str, Any]]) -> None:
    """Refuse a file whose components would be looked for elsewhere."""
    for spec in (spec for kind in KINDS.values() for spec in listed[kind.hook].values()):
        module, _, name = spec.factory.partition(":")
        if module in (file.namespace, "__main__"):
            raise _Unusable(f'{spec.name!r}: expected factory=f"{{__name__}}:{name}", got {spec.factory!r}')


def _ask_hooks(plugin: Any) -> dict[str, dict[str, Any]]:
    """Return what each hook lists, by name. A manager of its own a plugin: no neighbour's hook is ever called."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(cast(Any, hook_specifications()))
    _check_names(manager, plugin)
    manager.register(plugin)
    manager.check_pending()
    return {hook: _checked(hook, getattr(manager.hook, hook)) for hook in HOOKS}


def _check_names(manager: pluggy.PluginManager, plugin: Any) -> None:
    for name, _ in inspect.getmembers(plugin, inspect.isroutine):
        options = manager.parse_hookimpl_opts(plugin, name)
        hook = name if options is None else options.get("specname") or name
        if hook not in HOOKS and (options is not None or name.startswith(f"{PROJECT}_")):
            raise _Unusable(f"there is no hook {hook!r}.{suggest(hook, HOOKS)}")
        if hook in HOOKS and options is None:
            raise _Unusable(f"{name} is not marked with @hookimpl")


def _checked(hook: str, caller: pluggy.HookCaller) -> dict[str, Any]:
    if not caller.get_hookimpls():
        return {}
    expected = HOOKS[hook]
    results = caller()  # pluggy leaves a returned None out
    listed = results[0] if results else None
    if not isinstance(listed, list | tuple):
        raise _Unusable(f"{hook} must return a list of {expected.__name__}, got {type(listed).__name__}")
    by_name: dict[str, Any] = {}
    for spec in listed:
        fault = fault_of(spec, expected)
        if fault:
            raise _Unusable(f"{hook}: {fault}")
        if spec.name in by_name:
            raise _Unusable(f"{hook} lists {spec.name!r} twice; names must differ")
        by_name[spec.name] = spec
    return by_name
