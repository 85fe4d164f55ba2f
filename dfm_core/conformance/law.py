"""What a law is: a function of a component that measures something, and raises `LawBroken` if it does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class LawBroken(AssertionError):
    """A component does not hold a law; the message says what was expected, what was measured and what to do."""


@dataclass(frozen=True)
class Measurement:
    """What a law measured: a number and the bound that it had to keep (both None where there is nothing to count)."""

    value: float | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Law:
    """A named check.

    kind: of the components that it concerns. requires: declared capability without which it is skipped.
    """

    name: str
    kind: str
    summary: str
    check: Callable[..., Measurement]
    requires: str | None = None


_LAWS: list[Law] = []


def law(kind: str, requires: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a law of `kind`; its name is the law's name, its docstring's first line the summary."""

    def register(check: Callable[..., Any]) -> Callable[..., Any]:
        summary = (check.__doc__ or "").strip().splitlines()[0]
        _LAWS.append(Law(check.__name__, kind, summary, check, requires))
        return check

    return register


def laws_of(kind: str) -> tuple[Law, ...]:
    """Return the laws of a kind, in the order in which they are declared."""
    import importlib

    importlib.import_module(f"dfm_core.conformance.{kind}")
    return tuple(law for law in _LAWS if law.kind == kind)
