"""The laws of a component as the tests of its author: one test a law. Imports pytest when it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfm_core.conformance.law import Law, LawBroken
from dfm_core.conformance.runner import Trial
from dfm_core.conformance.subject import subject_of
from dfm_core.errors import UsageError, suggest
from dfm_core.plugins.registry import Registry, default_registry
from dfm_core.plugins.specs import ComponentSpec

if TYPE_CHECKING:
    import pytest


def parametrize_with_checks(
    component: str | ComponentSpec,
    *,
    kind: str | None = None,
    options: Mapping[str, object] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    files: Sequence[str | Path] = (),
) -> pytest.MarkDecorator:
    """Decorate a test that has one argument `check`, a callable without arguments: it becomes one test a law.

    component: a name as users write it, or a spec. kind: where the name leaves it open. options: of the component.
    expected_failures: law -> reason; such a test must fail (strict), so that a reason does not outlive its law. files:
    plugin files beside what is installed, as `--plugin` takes them. Raises UsageError for a law that the kind does not
    have, PluginError for a file that cannot be used, and what `check_component` raises.
    """
    import pytest

    registry = Registry.discover(files=files) if files else default_registry()
    registry.require_files()
    trial = Trial(subject_of(component, kind, options, registry), registry)
    laws = {law.name: law for law in trial.laws}
    expected = dict(expected_failures or {})
    for name in expected:
        if name not in laws:
            near = suggest(name, laws)
            raise UsageError(f"expected_failures: no law of the kind {trial.subject.title} is called {name!r}.{near}")
    parameters = []
    for law in laws.values():
        exemption = trial.exemption(law)
        marks: list[Any] = [pytest.mark.skip(reason=exemption)] if exemption else []
        if law.name in expected:
            marks.append(pytest.mark.xfail(strict=True, raises=LawBroken, reason=expected[law.name]))
        parameters.append(pytest.param(Check(trial, law), id=law.name, marks=marks))
    return pytest.mark.parametrize("check", parameters)


class Check:
    """One law before one component."""

    def __init__(self, trial: Trial, law: Law) -> None:
        self._trial, self._law = trial, law

    def __call__(self) -> None:
        """Raise LawBroken if the law is broken; skip the test if it cannot be judged here."""
        __tracebackhide__ = True
        result = self._trial.judge(self._law)
        if result.state == "skipped":
            import pytest

            pytest.skip(result.message)
        if result.state == "broken":
            raise LawBroken("\n".join(filter(None, (result.message, result.traceback))))

    def __repr__(self) -> str:
        return f"<law {self._law.name}: {self._law.summary}>"
