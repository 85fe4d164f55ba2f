"""The rules of the house, read from the source: who may import whom, what stays free of torch, who is named."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfm_core.plugins import ComponentSpec
from dfm_core.plugins.discovery import BUILTIN
from dfm_core.plugins.kinds import KINDS
from dfm_core.plugins.registry import Registry

ROOT = Path(__file__).parents[1]

# Lowest first: a module imports from its own layer and from those before it. A new module needs a place here. A
# submodule may stand higher than its package: the longest name that fits counts, and the package may not import it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "files"),
    ("plugins",),
    ("config",),
    ("stages", "flow", "randomness", "interfaces"),
    ("time_grid", "latent_sizes", "gif_times", "students_t"),
    ("residual_pyramid", "preconditioning", "stage_space", "solvers", "images", "latent_shards"),
    ("batch_shares", "loss_report"),
    ("clip_sources", "clips", "pictures"),
    (
        "objective",
        "generation",
        "specialisation",
        "conformance",
        "pictures.plots",
        "pictures.gallery",
        "inspection",
        "network_facts",
    ),
    ("pictures.clip_plots",),
    ("devices", "composition", "media", "schedule_coverage"),
    ("assembly",),
    ("training",),
    ("model", "step_memory", "plan", "runs"),
    ("runs.beginning",),
    ("runs.start", "runs.listing", "runs.curves", "encoding"),
    ("pictures.curve_plots", "evaluation", "bench"),
    ("comparison",),
    ("conformance.composition",),
    ("api",),
    ("cli", "__main__"),
)
TOP = ("__init__",)
"""The package itself only passes on names, when they are asked for."""

# What a third party may rely on, and the helper that the built-in components share with core.
STABLE = ("interfaces", "stages", "flow", "residual_pyramid", "randomness", "plugins", "conformance", "errors")
SHARED_WITH_PLUGINS = ("files", "images", "clips")
# The trainer knows objective(batch): nothing of stages, decompositions or schedules.
TRAINING_MAY_IMPORT = (
    "training",
    "errors",
    "files",
    "randomness",
    "loss_report",
    "config.settings",
    "interfaces.dataset",
)

LIGHT = {"typer", "rich", "pydantic", "pydantic_core", "pluggy", "yaml", *sys.stdlib_module_names}
"""What may be imported before a command is known."""
FORBIDDEN = {"click": "typer brings its own", "torchvision": "it breaks transformers' models without a CPU build"}
# Names that are also plain words: they count where something is compared with them or looked up by them.
PLAIN_WORDS = {
    *("is", "spectrum"),
    *("consecutive", "folder", "identity", "pixels", "progressive", "shapes", "simultaneous", "straight", "tied"),
    *("trajectory", "uniform"),
}


def modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name; packages by theirs with __init__."""
    files = [path for package in ("dfm_core", "dfm_plugins") for path in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


MODULES = modules()


def package_of(name: str) -> str:
    """Name of a module as it is in MODULES."""
    return f"{name}.__init__" if f"{name}.__init__" in MODULES else name


def imports(tree: ast.AST, at_import_only: bool = False) -> Iterator[str]:
    """Names that are imported; with at_import_only, only those that importing the module imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield inner if package_of(inner) in MODULES else origin
        elif at_import_only and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or for_types(node)
        ):
            continue
        else:
            yield from imports(node, at_import_only)


def for_types(node: ast.AST) -> bool:
    """Whether this is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def within(name: str, package: str, parts: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the parts of a package, or inside one."""
    return any(name == f"{package}.{part}" or name.startswith(f"{package}.{part}.") for part in parts)


def layer_of(module: str) -> int | None:
    parts = [(part, index) for index, layer in enumerate(LAYERS) for part in layer]
    fitting = [(len(part), index) for part, index in parts if within(module, "dfm_core", (part,))]
    return max(fitting)[1] if fitting else None


CORE = [name for name in MODULES if name.startswith("dfm_core.") and not within(name, "dfm_core", TOP)]
PLUGINS = [name for name in MODULES if name.startswith("dfm_plugins.")]


@pytest.mark.parametrize("module", CORE)
def test_core_imports_point_one_way(module: str) -> None:
    own = layer_of(module)
    assert own is not None, f"give {module} a place in LAYERS"
    for name in imports(tree_of(module)):
        if name.split(".")[0] != "dfm_core":
            continue
        assert name != "dfm_core", f"{module} imports the package; import the module that has the name"
        layer = layer_of(name)
        assert layer is not None, f"give {name} a place in LAYERS"
        assert layer <= own, f"{module} imports {name}, which stands above it"


@pytest.mark.parametrize("module", [name for name in CORE if within(name, "dfm_core", ("training",))])
def test_training_knows_no_stages(module: str) -> None:
    wrong = [
        name
        for name in imports(tree_of(module))
        if name.startswith("dfm_core") and not within(name, "dfm_core", TRAINING_MAY_IMPORT)
    ]
    assert not wrong


def test_core_does_not_import_the_plugins_that_ship() -> None:
    wrong = [(module, name) for module in CORE for name in imports(tree_of(module)) if name.startswith("dfm_plugins")]
    assert not wrong


@pytest.mark.parametrize("module", PLUGINS)
def test_components_import_the_stable_part_of_core(module: str) -> None:
    wrong = [
        name
        for name in imports(tree_of(module))
        if name.startswith("dfm_core") and not within(name, "dfm_core", STABLE + SHARED_WITH_PLUGINS)
    ]
    assert not wrong, f"{module} imports {wrong}; components import {', '.join(STABLE + SHARED_WITH_PLUGINS)}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_absolute_and_allowed(module: str) -> None:
    for name in imports(tree_of(module)):
        assert not name.startswith("."), f"{module}: write {name} with its whole name"
        reason = FORBIDDEN.get(name.split(".")[0])
        assert reason is None, f"{module} imports {name}: {reason}"


def is_light(module: str) -> bool:
    """Whether importing a module must cost next to nothing."""
    if module in ("dfm_core.__init__", "dfm_plugins.__init__", "dfm_plugins.plugin", "dfm_core.__main__"):
        return True
    if module.startswith("dfm_plugins."):
        return module.endswith((".specs", ".__init__"))
    return within(module, "dfm_core", ("config", "plugins", "cli", "errors"))


def heavy_chain(module: str, chain: tuple[str, ...] = (), seen: set[str] | None = None) -> tuple[str, ...] | None:
    """The chain of imports from a module to something heavy, or None."""
    seen = set() if seen is None else seen
    if module in seen:
        return None
    seen.add(module)
    chain = (*chain, module)
    for name in imports(tree_of(module), at_import_only=True):
        if name.split(".")[0] not in ("dfm_core", "dfm_plugins"):
            if name.split(".")[0] not in LIGHT:
                return (*chain, name)
            continue
        parts = name.split(".")
        reached = [package_of(".".join(parts[:length])) for length in range(1, len(parts) + 1)]
        for inner in reached:
            found = heavy_chain(inner, chain, seen) if inner in MODULES else None
            if found:
                return found
    return None


@pytest.mark.parametrize("module", [name for name in MODULES if is_light(name)])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    chain = heavy_chain(module)
    assert chain is None, " imports ".join(chain or ())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["plugins", "list"], ["plugins", "show", "dit"], ["config", "show", "--device", "cpu"]],
)
def test_light_commands_import_no_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from dfm_core.cli.app import main
code = main({arguments!r})
heavy = {{"torch", "numpy"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def strings(tree: ast.Module) -> Iterator[str]:
    """Texts in the code, docstrings left out."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def texts_that_choose(tree: ast.Module) -> Iterator[str]:
    """Texts that something is compared with, or that are passed beside the name of a kind."""
    for node in ast.walk(tree):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Compare | ast.MatchValue):
            parts = [node]
        elif isinstance(node, ast.Call) and {text for part in node.args for text in texts_in(part)} & set(KINDS):
            parts = [*node.args]
        for part in parts:
            yield from texts_in(part)


def texts_in(tree: ast.AST) -> Iterator[str]:
    return (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Names that the code gives and uses."""
    for node in ast.walk(tree):
        for attribute in ("id", "attr", "name", "arg"):
            value = getattr(node, attribute, None)
            if isinstance(value, str):
                yield value


@functools.cache
def component_names() -> set[str]:
    record = Registry.discover({}).load(BUILTIN)
    return {name for specs in record.components.values() for name in specs}


@pytest.mark.parametrize("module", CORE)
def test_core_names_no_component(module: str) -> None:
    names, tree = component_names(), tree_of(module)
    assert len(names) > 10
    chosen = {text for text in texts_that_choose(tree) if text in names}
    marked = names - PLAIN_WORDS
    words = {word for text in strings(tree) for word in re.findall(r"\w+", text.lower()) if word in marked}
    named = {word for word in identifiers(tree) if {*word.lower().split("_")} & marked}
    assert not (chosen | words | named), f"{module} names a component; ask for a declared capability instead"


def test_the_rules_see_what_they_should() -> None:
    source = "import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    from dfm_core.plugins import factory, hookimpl\n"
    tree = ast.parse(source)
    assert list(imports(tree)) == ["a", "b", "dfm_core.plugins.factory", "dfm_core.plugins"]
    assert list(imports(tree, at_import_only=True)) == ["a"]
    assert heavy_chain("dfm_core.flow") == ("dfm_core.flow", "torch")
    modules = ("conformance.runner", "model", "conformance.composition.small_model")
    lower, middle, higher = (layer_of(f"dfm_core.{module}") or 0 for module in modules)
    assert 0 < lower < middle < higher
    assert layer_of("dfm_core.conformances") is None
    assert list(strings(ast.parse('"""dit"""\ndef f():\n    """dit"""\n    return "dwt"'))) == ["dwt"]
    choosing = ast.parse('x == "tied"; get("dataset", "shapes"); f("a", "folder"); y in ("uniform",)')
    assert set(texts_that_choose(choosing)) == {"tied", "dataset", "shapes", "uniform"}
    assert issubclass(KINDS["backbone"].spec, ComponentSpec)
