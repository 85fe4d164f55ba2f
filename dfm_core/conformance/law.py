"""What a law is: a function of a component that measures something, and raises `LawBroken` if it does not hold."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """What a law measured.

    value: a number, None where there is nothing to count. bound: what it had to keep. at_least: the bound is the least
    that is allowed, not the most.
    """

    value: float | None = None
    bound: float | None = None
    at_least: bool = False

    @property
    def strain(self) -> float:
        """How near the value is to its bound, or beyond it: the largest of several is the worst."""
        if self.value is None or self.bound is None:
            return -math.inf
        if math.isnan(self.value):
            return math.inf
        if self.at_least:
            return self.bound - self.value
        return self.value / self.bound if self.bound > 0 else self.value


class LawBroken(AssertionError):
    """A component does not hold a law; the message says what was expected, what was measured and what to do.

    measurement: what was measured, where it is a number.
    """

    def __init__(self, message: str, measurement: Measurement | None = None) -> None:
        super().__init__(message)
        self.measurement = measurement or Measurement()


def at_most(value: float, bound: float, otherwise: str) -> Measurement:
    """Return the measurement; raise LawBroken, saying `otherwise`, where the value is above the bound or NaN."""
    measured = Measurement(value, bound)
    if not value <= bound:
        raise LawBroken(otherwise, measured)
    return measured


def at_least(value: float, bound: float, otherwise: str) -> Measurement:
    """Return the measurement; raise LawBroken, saying `otherwise`, unless the value is above the bound."""
    measured = Measurement(value, bound, at_least=True)
    if not value > bound:
        raise LawBroken(otherwise, measured)
    return measured


class LawSkipped(Exception):
    """A law that cannot be judged here; the message says why."""


@dataclass(frozen=True)
class Law:
    """A named check.

    name: of the function that checks. summary: what it says, on one line. kind: of the components that it concerns.
    requires: declared capability without which it is skipped. once: it takes so long that one situation must do.
    """

    name: str
    kind: str
    summary: str
    check: Callable[..., Measurement]
    requires: str | None = None
    once: bool = False


# By kind and name: a module that is imported again declares its laws anew, not a second time.
_LAWS: dict[tuple[str, str], Law] = {}


def law(
    kind: str, requires: str | None = None, once: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a law of `kind`; its name is the law's name, its docstring's first line the summary."""

    def register(check: Callable[..., Any]) -> Callable[..., Any]:
        summary = (check.__doc__ or "").strip().splitlines()[0]
        _LAWS[kind, check.__name__] = Law(check.__name__, kind, summary, check, requires, once)
        return check

    return register


def laws_of(kind: str) -> tuple[Law, ...]:
    """Return the laws of a kind, or of "composition", those that need a declared capability last."""
    importlib.import_module(f"dfm_core.conformance.{kind}")
    return tuple(sorted((law for law in _LAWS.values() if law.kind == kind), key=lambda law: law.requires is not None))
