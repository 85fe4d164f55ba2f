"""The suite as a product: its cases, its results, its tests for others; every built-in component, and broken ones."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from built_in_components import built_in, needs_files
from fake_plugins import FakeSite
from law_breakers import BROKEN, install_broken
from PIL import Image

from dfm_core.conformance import (
    LawBroken,
    LawResult,
    LawSkipped,
    Measurement,
    check_component,
    dataset,
    laws_of,
    parametrize_with_checks,
)
from dfm_core.conformance.cases import cases_of, plain_grid
from dfm_core.conformance.fresh_process import FreshProcessError, call_fresh
from dfm_core.conformance.law import Law, at_least, at_most
from dfm_core.conformance.runner import BUILDS, Trial, judge
from dfm_core.conformance.subject import subject_of
from dfm_core.errors import ConfigError, PluginError, UnknownComponentError, UsageError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.interfaces.stage_schedule import StageScheduleFacts
from dfm_core.plugins import AutoencoderSpec, ComponentSpec, DecompositionSpec
from dfm_core.plugins.kinds import KINDS
from dfm_core.plugins.registry import Registry
from dfm_plugins.stage_schedules.progressive import ProgressiveSchedule
from dfm_plugins.stage_schedules.specs import ProgressiveOptions

pytest_plugins = "pytester"

QUICK: dict[str, dict[str, object]] = {
    **{
        key: {"depth": 1, "width": 16, "heads": 1}
        for key in ("dit", "video_dit", "dit_experts", "dit_growing", "pyramid_dit")
    },
    **{"fd": {"steps": 5, "resamples": 3}, "precision_recall": {"steps": 5}},
    **{"swd": {"patches": 8, "directions": 32}, "spectrum": {"resamples": 3}},
}
BUILT_IN = [(kind, name) for kind, name in built_in() if name == "folder" or not needs_files(kind, name)]
"""The others read files of more elaborate sorts; tests/components holds them against the same laws."""


def states(results: tuple[LawResult, ...]) -> dict[str, str]:
    return {result.law: result.state for result in results}


def broken(results: tuple[LawResult, ...]) -> dict[str, LawResult]:
    return {result.law: result for result in results if result.state == "broken"}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The built-in plugin, and the broken one."""
    install_broken(FakeSite(tmp_path, monkeypatch))
    return Registry.discover({})


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickling stands for a new process, which takes seconds."""
    monkeypatch.setattr(dataset, "call_fresh", lambda function, *given: function(*pickle.loads(pickle.dumps(given))))


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_every_built_in_component_holds_the_laws(kind: str, name: str, tmp_path: Path) -> None:
    options = QUICK.get(name, {})
    if name == "folder":
        for index in range(12):
            Image.effect_noise((20, 14), 60 + index).convert("RGB").save(tmp_path / f"{index}.png")
        options = {"path": str(tmp_path)}
    results = check_component(name, kind=kind, options=options)
    assert not broken(results), broken(results)
    assert [result.law for result in results] == [BUILDS, *(law.name for law in laws_of(kind))]
    assert all(result.cases > 0 for result in results if result.state == "held")
    json.dumps([result.as_dict() for result in results], allow_nan=False)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_component_of_each_kind_breaks_its_law(
    kind: str, registry: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    results = check_component(f"acme/{kind}", kind=kind, options=quick(kind), registry=registry)
    (law,) = broken(results)
    assert law == BROKEN[kind]
    assert "first:" in broken(results)[law].message
    assert broken(results)[law].traceback == ""
    assert capfd.readouterr().out == ""  # what a component prints is no result


def quick(kind: str) -> dict[str, object]:
    return QUICK["dit"] if kind == "backbone" else {}


def test_cases_are_what_a_component_meets() -> None:
    facts: list[DecompositionFacts] = [case.facts for case in cases_of("decomposition")]
    assert {len(f.stage_sizes) for f in facts} == {1, 2, 3, 4}
    assert {f.channels for f in facts} == {1, 3, 4}
    assert {height == width for f in facts for *_, height, width in f.stage_sizes} == {True, False}
    assert {case.clips for case in cases_of("decomposition")} == {True, False}
    assert any(coarse[0] * 4 == fine[0] for f in facts for coarse, fine in pairwise(f.stage_sizes))
    assert {case.inputs[0].dtype for case in cases_of("decomposition")} == {torch.float32, torch.float64}
    layouts = [case.facts.layout for case in cases_of("backbone")]
    assert {len(layout) for layout in layouts} == {1, 2, 3}
    assert any(len({stage.shape[0] for stage in layout}) > 1 for layout in layouts)
    assert {bool(case.facts.num_classes) for case in cases_of("backbone")} == {True, False}
    for kind in ("stage_schedule", "timestep_sampler"):
        assert {case.facts.num_stages for case in cases_of(kind)} == {1, 2, 3, 4}
    assert {len(case.facts.size) for case in cases_of("dataset")} == {2, 3}
    assert {case.facts.data_channels for case in cases_of("autoencoder")} == {1, 3}
    for kind in KINDS:
        names = [case.name for case in cases_of(kind)]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4])
def test_the_plain_grid_is_the_progressive_schedule_with_ten_linear_steps_a_stage(num_stages: int) -> None:
    options = ProgressiveOptions.model_validate({"steps": [10] * num_stages, "shift": "linear"})
    expected = ProgressiveSchedule(options, StageScheduleFacts(num_stages, (1.0,) * num_stages)).grid()
    grid = plain_grid(num_stages)
    torch.testing.assert_close(grid.t, expected.t, rtol=0, atol=1e-12)
    assert torch.equal(grid.visible, expected.visible)
    for law in laws_of("stage_schedule"):
        law.check(Given(plain_grid(num_stages)))
        if law.requires is None:
            law.check(Given(plain_grid(num_stages, progressive=False)))


class Given(ProgressiveSchedule):
    """A schedule with the grid that it is given."""

    def __init__(self, grid: Any) -> None:
        num_stages = grid.t.shape[1]
        super().__init__(ProgressiveOptions.model_validate({}), StageScheduleFacts(num_stages, (1.0,) * num_stages))
        self._grid = grid

    def grid(self) -> Any:
        return self._grid


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refusing", r"every case is refused \(14 of them\).*first refusal: 1 stages are not to my taste \[stages 16"),
        ("single", "every case of several stages is refused .*: one stage is enough"),
        ("raising", "building raised ZeroDivisionError: by nothing"),
        ("absent", "of dfm-acme 1.2: its factory 'acme_parts:Absent' cannot be imported"),
    ],
)
def test_what_cannot_be_built_is_one_broken_law(name: str, message: str, registry: Registry) -> None:
    results = check_component(f"acme/{name}", registry=registry)
    found = broken(results)
    assert set(found) == {BUILDS}
    assert re.search(message, found[BUILDS].message)
    others = {state for law, state in states(results).items() if law != BUILDS}
    assert others == ({"held", "skipped"} if name == "single" else {"skipped"})
    assert bool(found[BUILDS].traceback) == (name in ("raising", "absent"))


def test_refused_cases_are_left_out_and_not_counted() -> None:
    # Wavelets halve: three quarters are refused.
    trials = [Trial(subject_of(name)) for name in ("fourier", "dwt")]
    any_ratio, halving = (trial.judge(trial.laws[0]).cases for trial in trials)
    assert (any_ratio, halving) == (len(cases_of("decomposition")), len(cases_of("decomposition")) - 2)


def test_an_error_in_a_law_is_a_result_with_its_traceback(registry: Registry) -> None:
    found = broken(check_component("acme/crashing", registry=registry))
    assert set(found) > {"perfect_reconstruction", "gradients_flow"}
    result = found["perfect_reconstruction"]
    assert result.message.startswith("IndexError: too many channels for me [in 2 of 14 cases, first: stages 8,16,32")
    assert "acme_parts.py" in result.traceback
    assert result.value is not None  # of the cases in which it held


def test_a_name_of_several_kinds_needs_one(registry: Registry) -> None:
    with pytest.raises(UsageError, match="a decomposition and a backbone.*--kind decomposition or backbone"):
        check_component("acme/backbone", registry=registry)
    results = check_component("acme/backbone", kind="decomposition", registry=registry)
    assert set(broken(results)) == {"gradients_flow"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"component": "laplacain"}, UnknownComponentError, "Did you mean 'laplacian'"),
        ({"component": "absent/thing"}, UnknownComponentError, "no plugin 'absent'"),
        ({"component": "dwt", "kind": "decompositon"}, UsageError, "Did you mean 'decomposition'"),
        ({"component": "dwt", "kind": "backbone"}, UnknownComponentError, "unknown backbone 'dwt'"),
        ({"component": "dwt", "options": {"wavlet": "haar"}}, ConfigError, "decomposition.options.wavlet: unknown key"),
    ],
)
def test_what_cannot_be_judged_is_an_error(call: Mapping[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_component(**call)


def test_a_plugin_is_no_component(registry: Registry) -> None:
    with pytest.raises(
        UnknownComponentError, match=r"'acme' is a plugin.* dfm-acme 1\.2 has acme/dataset, .*acme/metric\."
    ):
        check_component("acme", registry=registry)


def test_a_file_s_author_gets_tests_without_packaging(tmp_path: Path) -> None:
    source = SUITE.partition("@pytest.mark")[0]
    assert "SPEC" in source
    file = tmp_path / "mine.py"
    file.write_text(f"{source}\nfrom dfm_core.plugins import hookimpl\nDFM_PLUGIN_API = 1\n{HOOK}")
    mark = parametrize_with_checks("mine/short", files=[file])
    (broken,) = [case.id for case in mark.args[1] if not case.marks and raises(*case.values)]
    assert broken == "ends_at_data"
    with pytest.raises(UnknownComponentError, match="no plugin 'mine'"):
        parametrize_with_checks("mine/short")
    with pytest.raises(PluginError, match="cannot be read"):
        parametrize_with_checks("mine/short", files=[tmp_path / "other.py"])


HOOK = """
@hookimpl
def dfm_stage_schedules():
    return [SPEC]
"""


def raises(check: Callable[[], None]) -> bool:
    try:
        check()
    except LawBroken:
        return True
    return False


def test_a_spec_can_be_judged_before_it_is_installed() -> None:
    spec = DecompositionSpec("mine", "Mine.", "dfm_plugins.decompositions.identity:Identity", orthonormal=True)
    found = states(check_component(spec))
    assert (found["orthonormal"], found["linear"], found[BUILDS]) == ("held", "skipped", "broken")
    autoencoder = AutoencoderSpec("mine", "Mine.", "dfm_plugins.autoencoders.pixels:Pixels")
    assert set(states(check_component(autoencoder)).values()) == {"held"}
    with pytest.raises(UsageError, match="the kind of ComponentSpec 'mine' is not clear: give kind="):
        check_component(ComponentSpec("mine", "Mine.", "dfm_plugins.autoencoders.pixels:Pixels"))
    wrong = DecompositionSpec("mine", "Mine.", "dfm_plugins.autoencoders.pixels:Pixels")
    assert "expected 'dfm_plugins.autoencoders.pixels:Pixels' to be a subclass" in check_component(wrong)[0].message


def test_the_worst_of_all_cases_is_reported() -> None:
    def calls(*measure: Callable[[], Measurement]) -> list[tuple[str, Callable[[], Measurement]]]:
        return [(f"case {index}", call) for index, call in enumerate(measure)]

    law = Law("small", "decomposition", "It is small.", Measurement)
    # The bounds differ: 3e-6 of 1e-5 is nearer to its bound than 1e-11 of 1e-10.
    held = judge(law, calls(lambda: Measurement(1e-11, 1e-10), lambda: Measurement(3e-6, 1e-5), Measurement))
    assert (held.state, held.value, held.bound, held.cases) == ("held", 3e-6, 1e-5, 3)
    least = judge(law, calls(lambda: at_least(0.5, 0.1, ""), lambda: at_least(0.2, 0.1, "")))
    assert (least.value, least.bound, least.at_least) == (0.2, 0.1, True)
    too_large = judge(law, calls(lambda: at_most(0, 1, ""), lambda: at_most(float("nan"), 1, "NaN; scale it")))
    assert (too_large.state, too_large.message) == ("broken", "NaN; scale it [in 1 of 2 cases, first: case 1]")
    assert too_large.as_dict()["value"] is None

    def skip() -> Measurement:
        raise LawSkipped("no accelerator")

    assert judge(law, calls(skip)).state == "skipped"
    assert judge(law, calls(skip, lambda: Measurement(0, 0))).cases == 1


SUITE = """
import torch
from dfm_core.conformance import parametrize_with_checks
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.plugins import StageScheduleSpec
from dfm_plugins.stage_schedules.simultaneous import SimultaneousSchedule
from dfm_plugins.stage_schedules.specs import SimultaneousOptions

class Short(SimultaneousSchedule):
    def grid(self):
        grid = super().grid()
        return ScheduleGrid(torch.where(grid.t == 1, 1 - 1e-9, grid.t), grid.visible)

SPEC = StageScheduleSpec("short", "Stops short.", f"{__name__}:Short", SimultaneousOptions)

@parametrize_with_checks("simultaneous", options={"steps": 7})
def test_good(check):
    check()

@parametrize_with_checks(SPEC, kind="stage_schedule", expected_failures={"ends_at_data": "a little noise is left"})
def test_expected(check):
    check()

@parametrize_with_checks(SPEC)
def test_broken(check):
    check()

@parametrize_with_checks("simultaneous", expected_failures={"ends_at_data": "no longer true"})
def test_stale(check):
    check()
"""


def test_a_plugin_author_gets_one_test_a_law(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_laws=SUITE)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rA")
    tests = 4 * (len(laws_of("stage_schedule")) + 1)
    skipped = 4 * sum(law.requires == "progressive" for law in laws_of("stage_schedule"))
    result.assert_outcomes(passed=tests - skipped - 3, skipped=skipped, xfailed=1, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "*XFAIL*test_expected?ends_at_data? - a little noise is left",
            "E *LawBroken: stage 1 ends 1e-09 off t = 1, *: set the last row, *8 of 8 cases, first: 1 stage*",
            "*FAILED*test_broken?ends_at_data?*",
            "*FAILED*test_stale?ends_at_data? - ?XPASS(strict)? no longer true",
            "*PASSED*test_good?starts_at_noise?",
            "*SKIPPED*progressive is not declared*",
        ]
    )


def test_an_expected_failure_of_no_law_is_an_error() -> None:
    with pytest.raises(UsageError, match="no law of the kind decomposition is called 'gradient_flows'. Did you mean '"):
        parametrize_with_checks("laplacian", expected_failures={"gradient_flows": "misspelt"})
    with pytest.raises(UnknownComponentError):
        parametrize_with_checks("laplacain")


def test_a_component_that_writes_into_its_input_breaks_one_law(registry: Registry) -> None:
    assert set(broken(check_component("acme/writing", registry=registry))) == {"inputs_unchanged"}


@pytest.mark.slow
def test_what_a_fresh_process_says_is_passed_on() -> None:
    assert call_fresh(divmod, 7, 3) == (2, 1)
    with pytest.raises(FreshProcessError, match="(?s)^ZeroDivisionError: .*Traceback") as raised:
        call_fresh(divmod, 7, 0)
    assert raised.value.reason.count("\n") == 0
    with pytest.raises(FreshProcessError, match="it ended with exit code 3"):
        call_fresh(os._exit, 3)


def test_the_suite_needs_neither_pytest_nor_hypothesis_nor_the_trainer() -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(("pytest", "_pytest", "hypothesis")))
from dfm_core.conformance import check_component, parametrize_with_checks
assert all(result.state == "held" for result in check_component("pixels"))
assert not {"dfm_core.model", "dfm_core.assembly", "dfm_core.training.trainer"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
