"""The laws that a component must hold, and how to have one judged by them.

`check_component` returns results as plain data, `parametrize_with_checks` makes tests of them, `check_composition` (it
imports the whole framework, when it is first used) trains and samples a small model with the component. Importable by
plugin authors; the suite needs neither pytest nor hypothesis.
"""

from __future__ import annotations

import importlib
from typing import Any

from dfm_core.conformance.law import Law, LawBroken, LawSkipped, Measurement, law, laws_of
from dfm_core.conformance.parametrize import parametrize_with_checks
from dfm_core.conformance.runner import LawResult, check_component

__all__ = [
    "Law",
    "LawBroken",
    "LawResult",
    "LawSkipped",
    "Measurement",
    "check_component",
    "check_composition",
    "law",
    "laws_of",
    "parametrize_with_checks",
]


def __getattr__(name: str) -> Any:
    if name != "check_composition":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("dfm_core.conformance.composition").check_composition
