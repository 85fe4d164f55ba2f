"""Groups whose commands are imported when they run: the list of commands prints their summaries, and imports none."""

from __future__ import annotations

import importlib
from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import typer
from typer.core import MarkupMode, TyperCommand, TyperGroup
from typer.main import get_command


@dataclass(frozen=True)
class LazyCommand:
    """A command that is not imported yet. address: "package.module:function". summary: first sentence of its help."""

    address: str
    summary: str

    def load(self, name: str, markup: MarkupMode) -> TyperCommand:
        """Import the function and make the command of it."""
        module, _, function = self.address.partition(":")
        alone = typer.Typer(add_completion=False, rich_markup_mode=markup)
        alone.command(name)(getattr(importlib.import_module(module), function))
        return cast(TyperCommand, get_command(alone))


def lazy_group(commands: Mapping[str, LazyCommand]) -> type[TyperGroup]:
    """Return the class of a group with these commands, for `typer.Typer(cls=…)`."""

    class LazyGroup(TyperGroup):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            lazy = {**commands, **self.commands}
            self.commands = cast(Any, _Commands(lazy, self.rich_markup_mode))

        def list_commands(self, ctx: Any) -> list[str]:
            return list(self.commands)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return cast(_Commands, self.commands).described(cmd_name)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, _, rest = super().resolve_command(ctx, args)
            return name, self.commands[str(name)], rest

    return LazyGroup


class _Commands(UserDict[str, Any]):
    """The commands of a group by name; each is imported when it is asked for, and not to be described."""

    def __init__(self, commands: Mapping[str, Any], markup: MarkupMode) -> None:
        super().__init__(commands)
        self._markup = markup

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, LazyCommand):
            found = self.data[name] = found.load(name, self._markup)
        return found

    def described(self, name: str) -> Any:
        """The command, or what can be said of it without an import; None for an unknown name."""
        found = self.data.get(name)
        return TyperCommand(name, help=found.summary) if isinstance(found, LazyCommand) else found
