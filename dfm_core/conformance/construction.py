"""Build a component in each case, and say whether enough of them came about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dfm_core.conformance.cases import Case, cases_of
from dfm_core.conformance.law import LawBroken, Measurement
from dfm_core.conformance.subject import Subject
from dfm_core.errors import PluginError, UsageError

# What assembly asks a new component of these kinds at once; to refuse there is to refuse the case.
_FIRST_CALLS: dict[str, Callable[[Any], object]] = {
    "decomposition": lambda it: it.layout((it.facts.channels, *it.facts.stage_sizes[-1])),
    "stage_schedule": lambda it: it.grid(),
    "timestep_sampler": lambda it: it.visible_probabilities(),
}


@dataclass(frozen=True)
class Attempt:
    """What came of building a component in a case: the component, or a refusal (a UsageError), or another error."""

    case: Case
    component: Any = None
    refusal: UsageError | None = None
    error: Exception | None = None


def attempts_of(subject: Subject) -> tuple[Attempt, ...]:
    """Build the component in every case of its kind that concerns it; torch's random state stays as it was."""
    cases = [case for case in cases_of(subject.kind) if case.concerns(subject.resolved.spec)]
    try:
        component = subject.component_class()
    except PluginError as error:
        return tuple(Attempt(case, error=error) for case in cases)
    with torch.random.fork_rng(devices=[]):
        return tuple(_attempt(subject, component, case) for case in cases)


def all_built(attempts: Sequence[Attempt], several_stages: bool = True) -> Measurement:
    """It is built in every case that it does not refuse, at least in one of images, of clips and of several stages.

    several_stages: False for a component that declares to have one stage only.
    """
    for attempt in attempts:
        if attempt.error is not None:
            message = _sentence(attempt.error)
            raise LawBroken(f"{message} [{attempt.case.name}]") from attempt.error
    refused = [attempt for attempt in attempts if attempt.refusal is not None]
    for what, among in (
        ("every case", attempts),
        (
            "every case of several stages",
            [attempt for attempt in attempts if several_stages and attempt.case.several_stages],
        ),
        ("every case of clips", [attempt for attempt in attempts if attempt.case.clips]),
    ):
        if among and all(attempt in refused for attempt in among):
            first = among[0]
            raise LawBroken(
                f"{what} is refused ({len(among)} of them), expected one at least to be accepted; the first refusal: "
                f"{first.refusal} [{first.case.name}]"
            )
    return Measurement()


def _attempt(subject: Subject, component: type[Any], case: Case) -> Attempt:
    torch.manual_seed(0)
    try:
        made = component(subject.options, case.facts)
        if subject.kind in _FIRST_CALLS:
            _FIRST_CALLS[subject.kind](made)
    except PluginError as error:
        return Attempt(case, error=error)
    except UsageError as refusal:
        return Attempt(case, refusal=refusal)
    except Exception as error:
        return Attempt(case, error=error)
    return Attempt(case, made)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, PluginError) else f"building raised {type(error).__name__}: {error}"
