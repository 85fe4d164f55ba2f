"""The plugin host: each state of a plugin, names, options, factories; a neighbour is never touched."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from fake_plugins import STEERABLE, FakeSite

from dfm_core.errors import ConfigError, PluginError, UnknownComponentError, UsageError
from dfm_core.plugins.discovery import BUILTIN, DISTRIBUTION, PluginRecord, PluginState, is_strict
from dfm_core.plugins.kinds import KINDS
from dfm_core.plugins.registry import Registry


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSite:
    return FakeSite(tmp_path, monkeypatch)


def state_of(namespace: str, environment: dict[str, str] | None = None) -> PluginRecord:
    return Registry.discover(environment or {}).load(namespace)


def test_discovering_imports_nothing(site: FakeSite) -> None:
    site.plugin("acme", "raise RuntimeError('imported')")
    records = {record.info.namespace: record for record in Registry.discover({}).plugins()}
    assert records["acme"].state is PluginState.NOT_LOADED
    assert (records["acme"].info.distribution, records["acme"].info.version) == ("dfm-acme", "1.2")
    assert "acme_plugin" not in sys.modules


def test_bare_names_load_the_builtin_plugin_only(site: FakeSite) -> None:
    site.plugin("acme", "raise RuntimeError('imported')")
    registry = Registry.discover({})
    for kind in KINDS:
        for name in registry.names(kind):
            resolved = registry.get(kind, name)
            assert resolved.name == name
            assert resolved.plugin.distribution == DISTRIBUTION
    assert "acme_plugin" not in sys.modules


def test_a_namespaced_name_loads_one_plugin(site: FakeSite) -> None:
    site.plugin("acme", STEERABLE)
    site.plugin("broken", "raise RuntimeError('imported')")
    registry = Registry.discover({})
    resolved = registry.get("decomposition", "acme/steerable")
    assert resolved.name == "acme/steerable"
    assert resolved.plugin.provider == "dfm-acme 1.2"
    assert "broken_plugin" not in sys.modules
    assert registry.load("broken").state is PluginState.BROKEN
    assert registry.get("decomposition", "acme/steerable") == resolved


BROKEN = {
    "import error": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "odd exit": ("class Odd(BaseException): pass\nraise Odd('gone')", "Odd: gone"),
    "misspelt": ("@hookimpl\ndef dfm_decomposition(): return []", "no hook 'dfm_decomposition'.*'dfm_decompositions'"),
    "foreign hook": ("@hookimpl\ndef decompositions(): return []", "no hook 'decompositions'.*'dfm_decompositions'"),
    "another name": (
        "@hookimpl(specname='dfm_decomposition')\ndef mine(): return []",
        "no hook 'dfm_decomposition'.*'dfm_decompositions'",
    ),
    "nothing": ("", r"it lists nothing; expected a function such as dfm_\w+\(\), marked with @hookimpl"),
    "unmarked": ("def dfm_decompositions(): return []", "dfm_decompositions is not marked with @hookimpl"),
    "signature": ("@hookimpl\ndef dfm_decompositions(config): return []", "config"),
    "raises": ("@hookimpl\ndef dfm_decompositions(): raise KeyError('x')", "KeyError: 'x'"),
    "none": ("@hookimpl\ndef dfm_decompositions(): pass", "must return a list of DecompositionSpec, got NoneType"),
    "rubbish": ("@hookimpl\ndef dfm_decompositions(): return 3", "must return a list of DecompositionSpec, got int"),
    "wrong spec": (
        "@hookimpl\ndef dfm_decompositions(): return [PresetSpec('a', 'b', 'c')]",
        "expected a list of DecompositionSpec, got PresetSpec",
    ),
    "duplicate": (
        "@hookimpl\ndef dfm_decompositions(): return [DecompositionSpec('a', 'A.', 'm:C')] * 2",
        "lists 'a' twice",
    ),
    "name": ("@hookimpl\ndef dfm_decompositions(): return [DecompositionSpec('x/a', 'A.', 'm:C')]", "got 'x/a'"),
    "summary": ("@hookimpl\ndef dfm_decompositions(): return [DecompositionSpec('a', '', 'm:C')]", "a summary"),
    "factory": (
        "@hookimpl\ndef dfm_decompositions(): return [DecompositionSpec('a', 'A.', 'm.C')]",
        "expected a factory like 'package.module:Class', got 'm.C'",
    ),
    "options": (
        "@hookimpl\ndef dfm_decompositions(): return [DecompositionSpec('a', 'A.', 'm:C', dict)]",
        "expected options to be a pydantic model",
    ),
    "loose options": (
        "from pydantic import BaseModel\n"
        "class Loose(BaseModel): pass\n"
        "@hookimpl\ndef dfm_decompositions(): return [DecompositionSpec('a', 'A.', 'm:C', Loose)]",
        "Loose lets unknown fields pass",
    ),
    "medium": (
        "@hookimpl\ndef dfm_decompositions(): return [DecompositionSpec('a', 'A.', 'm:C', media={'audio'})]",
        'expected media to be a frozenset of some of "image" and "video", got {\'audio\'}',
    ),
    "media": (
        "@hookimpl\ndef dfm_decompositions(): return [DecompositionSpec('a', 'A.', 'm:C', media='video')]",
        "expected media to be a frozenset",
    ),
    "preset name": ("@hookimpl\ndef dfm_presets(): return [PresetSpec('A b', 'x', 'y')]", "got 'A b'"),
    "preset path": ("@hookimpl\ndef dfm_presets(): return [PresetSpec('a', 'x', 'a.yaml')]", "expected a pathlib.Path"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_says_why_and_who(site: FakeSite, case: str) -> None:
    source, reason = BROKEN[case]
    site.plugin("acme", source)
    registry = Registry.discover({})
    record = registry.load("acme")
    assert record.state is PluginState.BROKEN
    assert "Traceback" in record.traceback
    with pytest.raises(PluginError, match=f"(?s)plugin 'acme' of dfm-acme 1.2 is broken: .*{reason}"):
        registry.get("decomposition", "acme/a")
    assert registry.load(BUILTIN).state is PluginState.LOADED


INCOMPATIBLE = {
    "missing": ("", "declares no DFM_PLUGIN_API"),
    "older": ("DFM_PLUGIN_API = 0", "API 0, this is 1; update the plugin"),
    "newer": ("DFM_PLUGIN_API = 2", "API 2, this is 1; update decomposable-flow-matching"),
    "text": ("DFM_PLUGIN_API = '1'", "expected DFM_PLUGIN_API = 1, got '1'"),
    "newer that cannot be imported": (
        "DFM_PLUGIN_API = 2\nfrom dfm_core.plugins import SpecOfTheFuture",
        "API 2, this is 1; update decomposable-flow-matching",
    ),
}


@pytest.mark.parametrize("case", INCOMPATIBLE)
def test_an_incompatible_plugin_says_what_it_was_written_for(site: FakeSite, case: str) -> None:
    source, reason = INCOMPATIBLE[case]
    site.module("acme_plugin", source, preamble="")
    site.distribution("dfm-acme", "1.2", "acme = acme_plugin")
    record = state_of("acme")
    assert record.state is PluginState.INCOMPATIBLE
    assert reason in record.message
    assert "dfm-acme 1.2" in record.message


def test_two_distributions_with_one_namespace_are_both_refused(site: FakeSite) -> None:
    site.module("one", "raise RuntimeError")
    site.module("two", "raise RuntimeError")
    site.distribution("dfm-one", "1.0", "acme = one")
    site.distribution("dfm-two", "2.0", "acme = two")
    registry = Registry.discover({})
    refused = [record for record in registry.plugins() if record.info.namespace == "acme"]
    assert [record.state for record in refused] == [PluginState.CONFLICT] * 2
    with pytest.raises(PluginError, match=r"claimed by dfm-\w+ \d.0 \(\w+\) and dfm-\w+ \d.0 \(\w+\); none is loaded"):
        registry.get("decomposition", "acme/x")
    assert not {"one", "two"} & set(sys.modules)


def test_a_second_claim_on_builtin_is_not_used(site: FakeSite) -> None:
    site.plugin(BUILTIN, "raise RuntimeError", distribution="dfm-thief")
    registry = Registry.discover({})
    claims = {record.info.distribution: record for record in registry.plugins() if record.info.namespace == BUILTIN}
    assert claims["dfm-thief"].state is PluginState.CONFLICT
    assert "the claim of dfm-thief 1.2 is not used" in claims["dfm-thief"].message
    assert registry.load(BUILTIN).info.distribution == DISTRIBUTION
    assert registry.load(BUILTIN).state is PluginState.LOADED
    assert "builtin_plugin" not in sys.modules


def test_a_namespace_must_be_a_plain_word(site: FakeSite) -> None:
    site.module("acme_plugin", "raise RuntimeError")
    site.distribution("dfm-acme", "1.2", "Acme/x = acme_plugin")
    record = next(record for record in Registry.discover({}).plugins() if record.info.namespace == "Acme/x")
    assert record.state is PluginState.BROKEN
    assert "dfm-acme 1.2: expected a namespace" in record.message


def test_the_built_in_plugin_cannot_be_disabled() -> None:
    with pytest.raises(
        PluginError, match="DFM_DISABLE_PLUGINS: expected namespaces of other plugins, or all, got 'buil"
    ):
        Registry.discover({"DFM_DISABLE_PLUGINS": "acme,builtin"})


def test_disabling_what_is_not_there_is_a_warning(site: FakeSite, caplog: pytest.LogCaptureFixture) -> None:
    site.plugin("acme", STEERABLE)
    Registry.discover({"DFM_DISABLE_PLUGINS": "acme,all"}, builtin_only=True)
    assert not caplog.records
    Registry.discover({"DFM_DISABLE_PLUGINS": "acne"})
    assert caplog.messages == ["DFM_DISABLE_PLUGINS: no installed plugin is called 'acne'. Did you mean 'acme'?"]


def test_an_unknown_component_names_what_its_plugin_has(site: FakeSite) -> None:
    site.plugin("acme", STEERABLE)
    registry = Registry.discover({})
    for kind, name, message in (
        ("decomposition", "acme/thing", "unknown decomposition 'acme/thing'. dfm-acme 1.2 has acme/steerable."),
        ("backbone", "acme/thing", "unknown backbone 'acme/thing'. dfm-acme 1.2 has acme/steerable."),
        ("decomposition", "acme", "'acme' is a plugin: write acme/NAME; `dfm plugins show acme` lists what it has."),
    ):
        with pytest.raises(UnknownComponentError, match=re.escape(message)):
            registry.get(kind, name)


@pytest.mark.parametrize("value", ["acme", "other, acme", "all"])
def test_disabled_plugins_are_not_imported(site: FakeSite, value: str) -> None:
    site.plugin("acme", "raise RuntimeError")
    registry = Registry.discover({"DFM_DISABLE_PLUGINS": value})
    with pytest.raises(PluginError, match="disabled by DFM_DISABLE_PLUGINS"):
        registry.get("decomposition", "acme/x")
    assert registry.load("acme").state is PluginState.DISABLED
    assert registry.load(BUILTIN).state is PluginState.LOADED
    assert "acme_plugin" not in sys.modules


def test_builtin_only(site: FakeSite) -> None:
    site.plugin("acme", "raise RuntimeError")
    site.plugin(BUILTIN, "raise RuntimeError", distribution="dfm-thief")
    registry = Registry.discover({}, builtin_only=True)
    with pytest.raises(PluginError, match="plugin 'acme' of dfm-acme 1.2 is disabled by --no-plugins$"):
        registry.get("decomposition", "acme/x")
    states = {record.info.distribution: record.state for record in registry.plugins()}
    assert states["dfm-thief"] is states["dfm-acme"] is PluginState.DISABLED
    assert registry.get("decomposition", "laplacian")
    assert (registry.plugin("acme"), registry.plugin(BUILTIN)) == (None, registry.load(BUILTIN).info)


def test_require_all_names_what_cannot_be_used(site: FakeSite) -> None:
    site.plugin("fine", STEERABLE)
    Registry.discover({}).require_all()
    site.plugin("acme", "import no_such_module")
    site.plugin("other", "DFM_PLUGIN_API = 7")
    for number in (1, 2):
        site.distribution(f"dfm-rival-{number}", f"{number}.0", "rival = fine_plugin")
    site.plugin(BUILTIN, "raise RuntimeError", distribution="dfm-thief")
    with pytest.raises(PluginError) as caught:
        Registry.discover({}).require_all()
    first, *faults, last = str(caught.value).splitlines()
    assert first.startswith("DFM_STRICT_PLUGINS asks")
    reasons = (
        "'acme' of dfm-acme 1.2 is broken",
        "dfm-thief 1.2 is not used",
        "'other' of dfm-other 1.2 is incompatible",
    )
    assert all(any(reason in fault for fault in faults) for reason in (*reasons, "'rival' is claimed by dfm-rival-"))
    assert len(faults) == 4
    assert "DFM_DISABLE_PLUGINS=NAME" in last
    Registry.discover({"DFM_DISABLE_PLUGINS": "acme,other,rival"}, builtin_only=True).require_all()


@pytest.mark.parametrize(("value", "strict"), [("1", True), ("yes", True), ("", False), ("0", False), ("False", False)])
def test_what_asks_for_strictness(value: str, strict: bool) -> None:
    assert is_strict({"DFM_STRICT_PLUGINS": value}) == strict
    assert not is_strict({})


def test_a_disabled_namespace_is_in_no_conflict(site: FakeSite) -> None:
    for number in (1, 2):
        site.distribution(f"dfm-rival-{number}", f"{number}.0", "rival = rival_plugin")
    registry = Registry.discover({"DFM_DISABLE_PLUGINS": "rival"})
    assert [record.state for record in registry.plugins()][1:] == [PluginState.DISABLED] * 2


def test_what_a_plugin_prints_stays_out_of_the_results(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.plugin("acme", "print('hello from acme')" + STEERABLE)
    assert state_of("acme").state is PluginState.LOADED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello from acme" in captured.err


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("decomposition", "laplacain", "Did you mean 'laplacian'"),
        ("decomposition", "Laplacian", "Did you mean 'laplacian'"),
        ("decomposition", "builtin/laplacian", "Did you mean 'laplacian'"),
        ("decomposition", "shapes", "'shapes' is a dataset"),
        ("timestep_sampler", "Tied", "Did you mean 'tied'"),
    ],
)
def test_unknown_names_name_the_nearest(kind: str, name: str, hint: str) -> None:
    with pytest.raises(UnknownComponentError) as caught:
        Registry.discover({}).get(kind, name)
    assert f"unknown {KINDS[kind].title} {name!r}" in str(caught.value)
    assert hint in str(caught.value)
    assert "dfm plugins list" in str(caught.value)


def test_unknown_names_in_other_plugins(site: FakeSite) -> None:
    site.plugin("acme", STEERABLE)
    registry = Registry.discover({})
    with pytest.raises(UnknownComponentError, match="Did you mean 'acme/steerable'"):
        registry.get("decomposition", "acme/sterable")
    with pytest.raises(UnknownComponentError, match="no plugin 'acm' is installed. Did you mean 'acme'"):
        registry.get("decomposition", "acm/steerable")
    with pytest.raises(UnknownComponentError, match=r"namespace/name \(acme\)"):
        registry.get("decomposition", "nothing_like_it")
    with pytest.raises(UsageError, match="unknown kind 'decompositions'. Did you mean 'decomposition'"):
        registry.get("decompositions", "laplacian")
    with pytest.raises(ConfigError, match="unknown preset 'quikstart'. Did you mean 'quickstart'"):
        registry.preset("quikstart")


def test_an_unknown_preset_is_answered_with_a_handful() -> None:
    with pytest.raises(ConfigError) as caught:
        Registry.discover({}).preset("zzz")
    said = str(caught.value)
    assert said.endswith(
        "has dfm, flow-matching, cascaded, cascaded-second, pyramidal-flow …. `dfm plugins list` shows them"
    )
    assert "defaults" not in said


COMPONENT = """
from pydantic import Field

class SteerableOptions(Options):
    orientations: int = Field(4, ge=1, description="Orientations.")

@hookimpl
def dfm_decompositions():
    return [DecompositionSpec("steerable", "Steerable.", "acme_steerable:{target}", SteerableOptions)]
"""

CLASSES = """
from dfm_core.interfaces.decomposition import Decomposition

class Steerable(Decomposition):
    def layout(self, shape): ...
    def decompose(self, x): ...
    def recompose(self, stages): ...

class Fragile(Steerable):
    def __init__(self, options, facts):
        raise ValueError("too thin")

class Unfinished(Decomposition):
    def layout(self, shape): ...

class Forgetful(Steerable):
    def __init__(self, options, facts):
        pass

class Stranger:
    pass
"""


def registry_with(site: FakeSite, target: str, plugin: str = COMPONENT, classes: str = CLASSES) -> Registry:
    site.module("acme_steerable", classes, preamble="")
    site.plugin("acme", plugin.replace("{target}", target))
    return Registry.discover({})


def test_create_gives_options_and_facts(site: FakeSite) -> None:
    registry = registry_with(site, "Steerable")
    facts = object()
    built = registry.create("decomposition", "acme/steerable", {"orientations": 6}, facts)
    assert type(built).__name__ == "Steerable"
    assert built.options.orientations == 6
    assert built.facts is facts


def test_the_factory_is_imported_only_when_it_is_used(site: FakeSite) -> None:
    registry = registry_with(site, "Steerable")
    resolved = registry.get("decomposition", "acme/steerable")
    assert "acme_steerable" not in sys.modules
    registry.load_factory(resolved)
    assert "acme_steerable" in sys.modules


def test_what_a_component_prints_stays_out_of_the_results(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    noisy = "print('imported')\n" + CLASSES.replace("pass", "print('made')").replace(
        'raise ValueError("too thin")', "super().__init__(options, facts); print('built')"
    )
    assert registry_with(site, "Fragile", classes=noisy).create("decomposition", "acme/steerable", {}, None)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "imported\nmade\nbuilt\n" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orientation": 6}, "decomposition.options.orientation: unknown key. Did you mean 'orientations'"),
        ({"orientations": 0}, "decomposition.options.orientations: expected greater than or equal to 1, got 0"),
        ({"orientations": "many"}, "decomposition.options.orientations: expected a valid integer.*got 'many'"),
    ],
)
def test_wrong_options_are_config_errors(site: FakeSite, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry_with(site, "Steerable").create("decomposition", "acme/steerable", options, None)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("Missing", "cannot be imported: AttributeError"),
        ("Stranger", "subclass of dfm_core.interfaces.decomposition.Decomposition"),
        ("Unfinished", "leaves out what its kind must have: decompose, recompose"),
        ("Fragile", "failed while it was built: ValueError: too thin"),
        ("Forgetful", "must call super.*__init__"),
    ],
)
def test_faulty_factories_name_their_distribution(site: FakeSite, target: str, reason: str) -> None:
    with pytest.raises(PluginError, match=f"'acme/steerable' of dfm-acme 1.2.*{reason}"):
        registry_with(site, target).create("decomposition", "acme/steerable", {}, None)


def test_an_option_may_not_repeat_a_fact(site: FakeSite) -> None:
    registry = registry_with(site, "Steerable", COMPONENT.replace("orientations: int", "channels: int"))
    resolved = registry.get("decomposition", "acme/steerable")
    with pytest.raises(PluginError, match="its options repeat facts of core: channels"):
        registry.load_factory(resolved)


def test_override_options_keeps_the_rest() -> None:
    registry = Registry.discover({})
    schedule = ("stage_schedule", "progressive")
    merged = registry.override_options(*schedule, {"thresholds": [0.7]}, {"steps": [3, 1]})
    assert (merged["thresholds"], merged["steps"]) == ([0.7], [3, 1])
    with pytest.raises(ConfigError, match="stage_schedule.options.step: unknown key. Did you mean 'steps'"):
        registry.override_options(*schedule, {}, {"step": 3})


def test_builtin_specs_are_documented() -> None:
    registry = Registry.discover({})
    record = registry.load(BUILTIN)
    assert set(record.components) == set(KINDS)
    for kind, specs in record.components.items():
        for name, spec in specs.items():
            assert "\n" not in spec.summary, name
            undescribed = [key for key, field in spec.options.model_fields.items() if not field.description]
            assert not undescribed, f"{kind} {name}: {undescribed}"
            assert registry.load_factory(registry.get(kind, name))
