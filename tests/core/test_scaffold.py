"""Scaffolded packages of every kind: metadata, plugin, laws, linters; and what cannot be scaffolded."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_plugins import FakeSite
from packaging.licenses import canonicalize_license_expression
from packaging.requirements import Requirement

from dfm_core.cli.flags import KEYS
from dfm_core.conformance import check_component
from dfm_core.errors import ConfigError, DFMError, UsageError
from dfm_core.interfaces.stage_schedule import StageScheduleFacts
from dfm_core.plugins.discovery import DISTRIBUTION, PluginState, installed_version
from dfm_core.plugins.kinds import KINDS, RUN_KINDS
from dfm_core.plugins.registry import Registry
from dfm_core.plugins.scaffold import TEMPLATES, Scaffold, compatible_versions

ROOT = Path(__file__).parents[2]
SCAFFOLDS = {kind: Scaffold(f"lab-{kind}", kind, "steerable_pyramid") for kind in KINDS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each kind's package."""
    output = tmp_path_factory.mktemp("scaffolds")
    return {kind: scaffold.write(output) for kind, scaffold in SCAFFOLDS.items()}


@pytest.fixture(scope="module")
def registry(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that has all of them, as `pip install -e` would make it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        site = FakeSite(tmp_path_factory.mktemp("site"), monkeypatch)
        for folder in folders.values():
            project = metadata(folder)
            points = [f"{name} = {address}" for name, address in project["entry-points"]["dfm_core"].items()]
            site.distribution(project["name"], project["version"], *points)
            monkeypatch.syspath_prepend(folder)
        yield Registry.discover({})
    for name in [name for name in sys.modules if name.startswith("dfm_lab_")]:
        del sys.modules[name]


def metadata(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("kind", KINDS)
def test_package_is_complete(kind: str, folders: dict[str, Path]) -> None:
    scaffold, folder = SCAFFOLDS[kind], folders[kind]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    modules = {f"dfm_lab_{kind}/{name}.py" for name in ("__init__", "plugin", "steerable_pyramid")}
    assert files == {"pyproject.toml", "README.md", ".gitignore", "tests/test_steerable_pyramid.py", *modules}
    assert folder.name == f"dfm-lab-{kind}"
    readme = (folder / "README.md").read_text()
    for line in (
        "pip install",
        f"dfm plugins check {scaffold.component}",
        scaffold.next_commands(folder)[-1],
        "pytest",
    ):
        assert f"\n{line}" in readme
    # What it points to is installed with the framework.
    assert "docs/" not in readme
    for module in re.findall(r"pydoc ([\w.]+)", readme):
        assert importlib.util.find_spec(module) is not None
    assert not any("$" in (folder / file).read_text() for file in files)
    assert len((folder / f"dfm_lab_{kind}" / "steerable_pyramid.py").read_text().splitlines()) <= 65


@pytest.mark.parametrize("kind", KINDS)
def test_metadata(kind: str, folders: dict[str, Path]) -> None:
    project = metadata(folders[kind])
    assert project["name"] == f"dfm-lab-{kind}"
    assert project["entry-points"] == {"dfm_core": {f"lab-{kind}": f"dfm_lab_{kind}.plugin"}}
    (requirement,) = map(Requirement, project["dependencies"])
    assert requirement.name == DISTRIBUTION
    assert requirement.specifier.contains(installed_version())
    assert {clause.operator for clause in requirement.specifier} == {">=", "<"}
    assert canonicalize_license_expression(project["license"]) == project["license"]
    assert [Requirement(line).name for line in project["optional-dependencies"]["test"]] == ["pytest"]


@pytest.mark.parametrize("kind", KINDS)
def test_plugin_loads(kind: str, registry: Registry, folders: dict[str, Path]) -> None:
    scaffold = SCAFFOLDS[kind]
    record = registry.load(scaffold.namespace)
    assert record.state is PluginState.LOADED, record.traceback
    assert {name: list(specs) for name, specs in record.components.items() if specs} == {kind: ["steerable_pyramid"]}
    resolved = registry.get(kind, scaffold.component)
    assert registry.load_factory(resolved).__name__ == "SteerablePyramid"
    source = (folders[kind] / scaffold.package / "steerable_pyramid.py").read_text()
    assert resolved.spec.options.model_fields
    for name, field in resolved.spec.options.model_fields.items():
        assert field.description
        assert f"options.{name}" in source, "an option that nothing uses"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in KINDS),
        ("decomposition", {"enlarging": "nearest"}),
        ("decomposition", {"enlarging": "bicubic"}),
        ("autoencoder", {"factor": 1}),
        ("stage_schedule", {"steps": 1, "power": 0.5}),
        ("stage_schedule", {"steps": 250, "power": 4}),
        ("timestep_sampler", {"first_stage": 0.1}),
        ("backbone", {"width": 2, "depth": 1}),
        ("metric", {"bins": 3}),
    ],
)
def test_component_holds_the_laws_of_its_kind(kind: str, options: dict[str, object], registry: Registry) -> None:
    results = check_component(SCAFFOLDS[kind].component, options=options, registry=registry)
    assert {result.law: result.message for result in results if result.state == "broken"} == {}
    assert sum(result.state == "held" for result in results) >= 6


def test_schedule_takes_steps_of_each_stage(registry: Registry) -> None:
    name, facts = SCAFFOLDS["stage_schedule"].component, StageScheduleFacts(2, (1.0, 0.1))
    grid = registry.create("stage_schedule", name, {"steps": [3, 2]}, facts).grid()
    assert grid.visible.sum(0).tolist() == [5, 2]
    with pytest.raises(ConfigError, match=r"expected 2 \(one a stage\) or a single number, got 1: \[3\]"):
        registry.create("stage_schedule", name, {"steps": [3]}, facts)


def test_plugins_import_no_torch(folders: dict[str, Path]) -> None:
    code = "; ".join(
        [
            "import sys",
            *(f"sys.path.append({str(folder)!r})" for folder in folders.values()),
            *(f"import {scaffold.package}.plugin" for scaffold in SCAFFOLDS.values()),
            "sys.exit(sorted({'torch', 'numpy'} & set(sys.modules)))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, "[]")


def test_code_passes_the_linter_and_is_formatted(folders: dict[str, Path], tmp_path: Path) -> None:
    for kind in KINDS:
        Scaffold("a", kind, "b").write(tmp_path / kind)
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["select"]
    for command in (["check", f"--select={','.join(rules)}"], ["format", "--diff"]):
        places = [*folders.values(), tmp_path]
        line = [sys.executable, "-m", "ruff", *command, "--no-cache", *map(str, places)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_kind_has_its_templates_and_flag() -> None:
    assert {path.name for path in TEMPLATES.iterdir()} == {*KINDS, "package"}
    flags = {key: f"--{field.replace('_', '-')}" for field, key in KEYS.items()}
    assert {kind: SCAFFOLDS[kind].use for kind in RUN_KINDS} == {
        kind: f"dfm train {flags[f'{kind}.name']} {SCAFFOLDS[kind].component}" for kind in RUN_KINDS
    }
    assert SCAFFOLDS["metric"].use == "dfm eval RUN --metrics lab-metric/steerable_pyramid"
    assert SCAFFOLDS["metric"].setting == "lab-metric/steerable_pyramid.NAME=VALUE"


@pytest.mark.parametrize(
    ("version", "bounds"),
    [
        ("0.1.0", ">=0.1,<0.2"),
        ("0.9.12+local.3", ">=0.9,<0.10"),
        ("1.4.2", ">=1.4,<2"),
        ("2.0.post1", ">=2.0,<3"),
        ("0.2.0.dev3+g12ab", ">=0.2.0.dev3,<0.3"),
        ("1.0rc1", ">=1.0rc1,<2"),
    ],
)
def test_bounds_hold_the_version_that_they_were_made_from(version: str, bounds: str) -> None:
    assert compatible_versions(version) == bounds
    assert Requirement(f"x{bounds}").specifier.contains(version, prereleases=True)


def test_without_an_installed_framework_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfm_core.plugins.scaffold.installed_version", lambda: "unknown")
    with pytest.raises(UsageError, match=f"{DISTRIBUTION} is not installed"):
        Scaffold("acme", "backbone", "unet").write(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("namespace", ["", "Acme", "acme/x", "acme-", "_acme", "acme lab", "./acme", "acmé", "a.b"])
def test_bad_namespaces(namespace: str) -> None:
    with pytest.raises(UsageError, match="expected a namespace of lower-case letters, digits, - and _"):
        Scaffold(namespace, "backbone", "unet")


@pytest.mark.parametrize("namespace", ["builtin", "core", "plugins", "all"])
def test_namespaces_of_the_framework(namespace: str) -> None:
    with pytest.raises(UsageError, match=f"{namespace!r} belongs to {DISTRIBUTION}"):
        Scaffold(namespace, "backbone", "unet")


def test_namespaces_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = FakeSite(tmp_path, monkeypatch)
    site.distribution("someone", "1.2", "acme = someone_plugin")
    site.distribution("dfm-my-lab", "0.1", "my-lab = dfm_my_lab.plugin")
    with pytest.raises(UsageError, match="'acme' is taken by the installed someone 1.2"):
        Scaffold("acme", "backbone", "unet")
    assert Scaffold("my-lab", "backbone", "unet").package == "dfm_my_lab"


@pytest.mark.parametrize("name", ["", "Steerable", "2d", "_x", "a-b", "a b", "acme/x", "größe", "../x"])
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError, match="--name: expected lower-case letters, digits and _, with a letter first"):
        Scaffold("acme", "backbone", name)


@pytest.mark.parametrize("name", ["class", "none", "true", "value_error"])
def test_names_with_another_meaning_in_python(name: str) -> None:
    with pytest.raises(UsageError, match="means something else in Python"):
        Scaffold("acme", "backbone", name)


@pytest.mark.parametrize(
    ("kind", "name"), [("backbone", "backbone"), ("dataset", "dataset"), ("stage_schedule", "config_error")]
)
def test_names_that_would_hide_an_import(kind: str, name: str) -> None:
    with pytest.raises(UsageError, match="would hide what its module imports under that name"):
        Scaffold("acme", kind, name).render()


def test_the_name_of_the_plugin_s_own_module() -> None:
    with pytest.raises(UsageError, match=r"plugin\.py is the file that lists the components"):
        Scaffold("acme", "backbone", "plugin")


def test_unknown_kind() -> None:
    with pytest.raises(
        UsageError, match=r"unknown kind 'decompositon'\. Did you mean 'decomposition'.* Kinds: dataset"
    ):
        Scaffold("acme", "decompositon", "steerable")


def test_an_existing_folder_stays_as_it_is(tmp_path: Path) -> None:
    folder = Scaffold("acme", "decomposition", "steerable").write(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"exists, and nothing was written.* in dfm_acme/plugin\.py by hand"):
        Scaffold("acme", "backbone", "unet").write(tmp_path)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(DFMError, match="cannot write .*No space left on device"):
        Scaffold("acme", "decomposition", "steerable").write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_output_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DFMError, match="cannot write .*choose another --output"):
        Scaffold("acme", "decomposition", "steerable").write(tmp_path / "file")
