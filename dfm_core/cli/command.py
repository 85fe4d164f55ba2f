"""`@command`: what every command has in common."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Annotated, Any, get_type_hints

import typer

from dfm_core.cli.output import OutputOptions, choose_output

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print results, warnings and errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Command = Callable[..., None]


def command(function: Command) -> Command:
    """Make a function a command: adds --debug and --quiet, and spreads bundles of options.

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
    parameters += [_option("debug", Debug, False), _option("quiet", Quiet, False)]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        choose_output(OutputOptions(debug=values.pop("debug"), quiet=values.pop("quiet")))
        for name, bundle in bundles.items():
            values[name] = bundle(**{field.name: values.pop(field.name) for field in dataclasses.fields(bundle)})
        function(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _spread(bundle: Any) -> list[Parameter]:
    hints = get_type_hints(bundle, include_extras=True)
    return [_option(field.name, hints[field.name], field.default) for field in dataclasses.fields(bundle)]


def _option(name: str, annotation: Any, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
