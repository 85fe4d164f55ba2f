"""Judge a component: every law of its kind in every case that it accepts. Results are plain data."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dfm_core.conformance.construction import Attempt, all_built, attempts_of
from dfm_core.conformance.law import Law, LawBroken, LawSkipped, Measurement, laws_of
from dfm_core.conformance.subject import Subject, subject_of
from dfm_core.plugins.registry import Registry, default_registry, registry_session
from dfm_core.plugins.specs import ComponentSpec

BUILDS = "builds_from_facts"
"""Name of the first law of every kind: it concerns the cases as a whole."""

Call = tuple[str, Callable[[], Measurement]]
"""A case's name, and what measures the law in it."""


@dataclass(frozen=True)
class LawResult:
    """How a component stands to one law, in plain data.

    law: its name. summary: what it says, on one line. state: held, broken or skipped. value, bound: the worst of all
    cases, where the law measures a number; at_least: the bound is a least, not a most. cases: in how many it was
    judged. message: why it is broken or skipped, and what to do. traceback: of an error that is no LawBroken, else
    empty.
    """

    law: str
    summary: str
    state: Literal["held", "broken", "skipped"]
    value: float | None = None
    bound: float | None = None
    at_least: bool = False
    cases: int = 0
    message: str = ""
    traceback: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, which knows finite numbers only."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


class Trial:
    """A component before the laws of its kind. It is built once a case, when the first law asks.

    registry: whose plugin files a new process must know.
    """

    def __init__(self, subject: Subject, registry: Registry | None = None) -> None:
        self.subject = subject
        self._registry = registry

    @property
    def laws(self) -> tuple[Law, ...]:
        """The laws of its kind, the one about building first."""
        summary = "It is built from what core computes, in situations of several sizes."
        return (Law(BUILDS, self.subject.kind, summary, all_built), *laws_of(self.subject.kind))

    @functools.cached_property
    def attempts(self) -> tuple[Attempt, ...]:
        """What came of building the component in each case."""
        return attempts_of(self.subject)

    def exemption(self, law: Law) -> str:
        """Why a law does not concern this component, or an empty string."""
        free = law.requires is None or self.subject.declares(law.requires)
        return "" if free else f"{law.requires} is not declared"

    def judge(self, law: Law) -> LawResult:
        """Judge one law; nothing is raised. What the component prints goes to stderr."""
        with registry_session(self._registry or default_registry()), contextlib.redirect_stdout(sys.stderr):
            return self._judge(law)

    def _judge(self, law: Law) -> LawResult:
        exemption = self.exemption(law)
        if exemption:
            return LawResult(law.name, law.summary, "skipped", message=exemption)
        built = [attempt for attempt in self.attempts if attempt.component is not None]
        if law.name == BUILDS:
            several = getattr(self.subject.resolved.spec, "several_stages", True)
            return replace(judge(law, [("", lambda: all_built(self.attempts, several))]), cases=len(built))
        if not built:
            return LawResult(law.name, law.summary, "skipped", message=f"nothing was built: see {BUILDS}")
        judged = built[:1] if law.once else built
        return judge(law, [(attempt.case.name, functools.partial(_measure, law, attempt)) for attempt in judged])


def _measure(law: Law, attempt: Attempt) -> Measurement:
    """Measure a law in one case; inputs are copied, so that a component that writes into them breaks one law only."""
    return law.check(attempt.component, *(tensor.clone() for tensor in attempt.case.inputs))


def check_component(
    component: str | ComponentSpec,
    *,
    kind: str | None = None,
    options: Mapping[str, object] | None = None,
    registry: Registry | None = None,
    report: Callable[[LawResult], None] | None = None,
) -> tuple[LawResult, ...]:
    """Judge a component by every law of its kind; what it raises becomes a result.

    component: a name as users write it, or a spec. kind: where the name leaves it open. report: told of each result as
    soon as it is there. Raises UnknownComponentError, PluginError, UsageError (the kind) and ConfigError (options)
    where there is nothing to judge.
    """
    trial = Trial(subject_of(component, kind, options, registry), registry)
    return told((trial.judge(law) for law in trial.laws), report)


def told(results: Iterable[LawResult], report: Callable[[LawResult], None] | None) -> tuple[LawResult, ...]:
    """All results, each passed to `report` as soon as it is there."""
    collected = []
    for result in results:
        collected.append(result)
        if report is not None:
            report(result)
    return tuple(collected)


def judge(law: Law, calls: Sequence[Call]) -> LawResult:
    """Measure a law in several cases; nothing is raised."""
    measured: list[Measurement] = []
    broken: list[tuple[str, Exception]] = []
    reasons: list[str] = []
    for case, measure in calls:
        try:
            measured.append(measure())
        except LawSkipped as reason:
            reasons.append(str(reason))
        except Exception as error:
            broken.append((case, error))
            measured.append(getattr(error, "measurement", Measurement()))
    if not measured:
        return LawResult(law.name, law.summary, "skipped", message=reasons[0])
    worst = max(measured, key=lambda measurement: measurement.strain)
    result = LawResult(law.name, law.summary, "held", worst.value, worst.bound, worst.at_least, len(measured))
    if not broken:
        return result
    case, first = broken[0]
    where = f" [in {len(broken)} of {len(measured)} cases, first: {case}]" if case else ""
    return replace(result, state="broken", message=describe(first) + where, traceback=trace_of(first))


def describe(error: Exception) -> str:
    """What a law says, or what was raised instead of it holding."""
    return str(error) if isinstance(error, LawBroken) else f"{type(error).__name__}: {error}"


def trace_of(error: Exception) -> str:
    """Traceback of an error, or of the one behind a LawBroken; empty where a law alone spoke."""
    cause = error.__cause__ if isinstance(error, LawBroken) else error
    return "" if cause is None else "".join(traceback.format_exception(cause))
