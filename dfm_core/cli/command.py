"""`@command`: what every command has in common: how much it says, and which plugins it may use."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from dfm_core.cli.flags import with_flag_names
from dfm_core.cli.interrupt import INTERRUPTED, say_interrupted
from dfm_core.cli.launch import is_first_process
from dfm_core.cli.output import OutputOptions, choose_output, results_apart
from dfm_core.errors import ConfigError

PANEL = "Plugins"
LOOKING = ("plugins", "env")
"""Commands that show what is there: a plugin that cannot be used is shown by them, and stops the others."""

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print results, warnings and errors only.")]
PluginFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", help="A Python file with components; may be repeated.", metavar="FILE", rich_help_panel=PANEL
    ),
]
NoPlugins = Annotated[
    bool, typer.Option("--no-plugins", help="Use no installed plugin but the built-in one.", rich_help_panel=PANEL)
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Command = Callable[..., None]


def command(function: Command) -> Command:
    """Make a function a command: adds --debug, --quiet, --plugin and --no-plugins, and spreads bundles of options.

    A parameter whose type is a dataclass is a bundle: each of its fields becomes an option of its own, and the function
    gets them as one object.
    """
    hints = get_type_hints(function, include_extras=True)
    bundles: dict[str, Any] = {}
    parameters: list[Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            bundles[name] = hints[name]
            parameters += _spread(hints[name])
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name]))
    parameters += [_option("plugin", PluginFiles, None), _option("no_plugins", NoPlugins, False)]
    parameters += [_option("debug", Debug, False), _option("quiet", Quiet, False)]
    parameters.append(Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context))

    @functools.wraps(function)
    def run(**values: Any) -> None:
        choose_output(OutputOptions(debug=values.pop("debug"), quiet=values.pop("quiet")))
        looking = _name(values.pop("context")) in LOOKING
        files, builtin_only = values.pop("plugin") or (), values.pop("no_plugins")
        given = {name for name, value in values.items() if value is not None}
        for name, bundle in bundles.items():
            values[name] = bundle(**{field.name: values.pop(field.name) for field in dataclasses.fields(bundle)})
        apart = results_apart() if values.get("json") else nullcontext()
        with _told_interrupts(), apart, _named_flags(given), _plugins(files, builtin_only, looking):
            function(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@contextmanager
def _told_interrupts() -> Iterator[None]:
    """Say that the command was interrupted, where it has not said more itself."""
    try:
        yield
    except KeyboardInterrupt:
        if is_first_process():
            say_interrupted()
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _named_flags(given: Collection[str]) -> Iterator[None]:
    """Let an error name the flag whose value is wrong, not only its key in the configuration."""
    try:
        yield
    except ConfigError as error:
        error.args = (with_flag_names(str(error), given),)
        raise


@contextmanager
def _plugins(files: Sequence[Path], builtin_only: bool, looking: bool) -> Iterator[None]:
    """Give the command a registry of its own. looking: plugins that cannot be used are no error."""
    from dfm_core.plugins.discovery import is_strict
    from dfm_core.plugins.registry import Registry, registry_session

    registry = Registry.discover(os.environ, files=files, builtin_only=builtin_only)
    registry.load_files()
    if not looking:
        registry.require_files()
        if is_strict(os.environ):
            registry.require_all()
    with registry_session(registry):
        yield


def _name(context: typer.Context) -> str:
    """Name of the command or group below `dfm` that is running."""
    inner: Any = context
    while inner.parent is not None and inner.parent.parent is not None:
        inner = inner.parent
    return str(inner.info_name)


def _spread(bundle: Any) -> list[Parameter]:
    hints = get_type_hints(bundle, include_extras=True)
    return [_option(field.name, hints[field.name], field.default) for field in dataclasses.fields(bundle)]


def _option(name: str, annotation: Any, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
