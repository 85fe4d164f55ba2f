"""`dfm config show`: every value of a configuration and where it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfm_core.cli.command import Json, command
from dfm_core.cli.flags import ConfigFlags, resolve_flags
from dfm_core.cli.output import print_json, print_table

if TYPE_CHECKING:
    from dfm_core.config.resolve import ResolvedConfig


@command
def show(flags: ConfigFlags, json: Json = False) -> None:
    """Show every value and where it came from."""
    resolved = resolve_flags(flags)
    if json:
        print_json({"config": resolved.config.model_dump(mode="json"), "origins": dict(resolved.origins)})
    else:
        print_table("", ["key", "value", "from"], config_rows(resolved))


def config_rows(resolved: ResolvedConfig) -> list[tuple[str, object, str]]:
    """One row a value: dotted key, value, origin."""
    from dfm_core.config.resolve import flatten
    from dfm_core.config.sizes import write_stages

    values = flatten(resolved.config.model_dump(mode="json")) | {"stages": write_stages(resolved.config.stages)}
    return [(key, value, resolved.origins[key]) for key, value in values.items()]
