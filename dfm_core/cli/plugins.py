"""`dfm plugins`: what is installed, and what one component or plugin is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.output import info, print_json, print_table
from dfm_core.errors import PluginError, UnknownComponentError, suggest

if TYPE_CHECKING:
    from dfm_core.plugins.discovery import PluginRecord
    from dfm_core.plugins.registry import Registry


@command
def list_plugins(
    load: Annotated[
        bool, typer.Option("--load", help="Import each plugin, in a process of its own, and list its components.")
    ] = False,
    time_limit: Annotated[
        float, typer.Option(help="With --load: seconds after which an import is stopped.", min=0, metavar="SECONDS")
    ] = 60.0,
    json: Json = False,
) -> None:
    """List plugins and components.

    Those of other plugins are not imported without --load; `dfm plugins show NAME` loads one and lists what it has.
    With --load and DFM_STRICT_PLUGINS the exit code is 1 if one of them cannot be used.
    """
    from dfm_core.plugins.discovery import PluginState, is_strict

    plugins = listed_plugins(time_limit if load else None)
    if json:
        print_json(plugins)
    else:
        columns = ["plugin", "distribution", "version", "state", "note"]
        print_table("Plugins", columns, [[plugin[column] for column in columns] for plugin in plugins])
        print_contents(plugins)
    if any(plugin["state"] == PluginState.NOT_LOADED for plugin in plugins):
        info("`dfm plugins show NAME` loads a plugin and lists its components; `dfm plugins list --load` all of them")
    usable = {PluginState.LOADED, PluginState.DISABLED}
    if load and is_strict(os.environ) and {plugin["state"] for plugin in plugins} - usable:
        raise typer.Exit(1)


def listed_plugins(time_limit: float | None) -> list[dict[str, Any]]:
    """Every plugin as plain data, the built-in one loaded. time_limit: of importing each other; None imports none."""
    from dfm_core.plugins.describe import describe_plugin
    from dfm_core.plugins.discovery import BUILTIN, PluginState
    from dfm_core.plugins.registry import default_registry

    def describe(record: PluginRecord) -> dict[str, Any]:
        if time_limit is None or record.state is not PluginState.NOT_LOADED:
            return describe_plugin(record)
        from dfm_core.plugins.isolation import describe_isolated

        return describe_isolated(record, time_limit)

    registry = default_registry()
    registry.load(BUILTIN)
    return [describe(record) for record in registry.plugins()]


@command
def show(
    name: Annotated[str, typer.Argument(help="A component (bare or namespace/name) or a plugin.", metavar="NAME")],
    json: Json = False,
) -> None:
    """Show one component or plugin.

    Of a component: summary, reference, capabilities, options. Of a plugin: state, components, what broke it.
    """
    from dfm_core.plugins.registry import default_registry

    registry = default_registry()
    plugin = plugin_named(registry, name)
    components = components_named(registry, name, or_none=plugin is not None)
    if json:
        print_json({"components": components, "plugin": plugin})
        return
    for component in components:
        print_component(component)
    if plugin is not None:
        print_plugin(plugin)


def plugin_named(registry: Registry, name: str) -> dict[str, Any] | None:
    """What is known of the plugin with this namespace, after trying to load it; None if there is none."""
    from dfm_core.plugins.describe import describe_plugin

    if name not in {record.info.namespace for record in registry.plugins()}:
        return None
    return describe_plugin(registry.load(name))


def components_named(registry: Registry, name: str, or_none: bool) -> list[dict[str, Any]]:
    """The components of this name, of any kind. Raises UnknownComponentError for none, unless `or_none`."""
    from dfm_core.plugins.describe import describe_component

    try:
        found = [describe_component(resolved) for resolved in registry.find(name)]
        if not found and not or_none:
            near = suggest(name, [*registry.names(), *(record.info.namespace for record in registry.plugins())])
            message = f"no component or plugin is called {name!r}.{near} `dfm plugins list` shows what there is"
            raise UnknownComponentError(message)
    except PluginError:
        if not or_none:
            raise
        return []
    return found


def print_component(component: Mapping[str, Any]) -> None:
    """Print a component: what it is in one table, its options in another."""
    options = component["options"]
    facts = {key: value for key, value in component.items() if key not in ("name", "capabilities", "options") and value}
    rows = [*facts.items(), *component["capabilities"].items()]
    print_table(component["name"], ["what", "value"], rows)
    print()
    print_table("Options", list(options[0]), [list(row.values()) for row in options]) if options else print(
        "No options."
    )
    print()


def print_plugin(plugin: Mapping[str, Any]) -> None:
    """Print a plugin: its state, what broke it, its components and presets."""
    keys = ("distribution", "version", "module", "state", "note")
    print_table(plugin["plugin"], ["what", "value"], [(key, plugin[key]) for key in keys if plugin[key]])
    if plugin["traceback"]:
        print(f"\n{plugin['traceback']}")
    print_contents([plugin])


def print_contents(plugins: Sequence[Mapping[str, Any]]) -> None:
    """Print the components and presets of some plugins, where there are any."""
    components = [
        (kind, row["name"], row["summary"])
        for plugin in plugins
        for kind, rows in plugin["components"].items()
        for row in rows
    ]
    presets = [(row["name"], row["summary"]) for plugin in plugins for row in plugin["presets"]]
    for title, columns, rows in (
        ("Components", ["kind", "name", "summary"], components),
        ("Presets", ["name", "summary"], presets),
    ):
        if rows:
            print()
            print_table(title, columns, rows)
