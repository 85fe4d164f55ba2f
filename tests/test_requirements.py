"""What installing this framework brings along."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DISTRIBUTION = "decomposable-flow-matching"
# torchvision has no CPU build in step with torch, and its presence breaks transformers' models; the others need it.
UNWANTED = {"torchvision", "timm", "torch-fidelity", "lpips", "clean-fid", "open-clip-torch", "litdata"}
IMPORT_NAMES = {"pyyaml": "yaml", "pillow": "PIL", "pywavelets": "pywt", "torch-dct": "torch_dct"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(name: str, extras: set[str]) -> list[Requirement]:
    """Requirements of an installed distribution under these extras; none of one that is not installed."""
    try:
        declared = distribution(name).requires or []
    except PackageNotFoundError:
        return []
    found = map(Requirement, declared)
    environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
    return [r for r in found if r.marker is None or any(map(r.marker.evaluate, environments))]


def closure(name: str, extras: set[str]) -> set[str]:
    """Names of everything that installing `name` with `extras` installs."""
    seen: set[str] = set()
    open_ends = [(normal(name), extras)]
    while open_ends:
        current, wanted = open_ends.pop()
        for requirement in requirements(current, wanted):
            if normal(requirement.name) not in seen:
                seen.add(normal(requirement.name))
                open_ends.append((normal(requirement.name), requirement.extras))
    return seen


def test_nothing_unwanted_is_installed_with_any_extra() -> None:
    extras = set(distribution(DISTRIBUTION).metadata.get_all("Provides-Extra") or [])
    everything = closure(DISTRIBUTION, extras)
    assert {"torch", "kornia", "pytest", "sympy"} <= everything  # the walk goes somewhere
    assert not everything & UNWANTED


def test_every_declared_requirement_is_used_and_every_used_one_declared() -> None:
    declared = {normal(r.name) for r in requirements(DISTRIBUTION, set())}
    files = [file for package in ("dfm_core", "dfm_plugins") for file in (ROOT / package).rglob("*.py")]
    used = {name for file in files for name in imported(file)}
    names = set(map(import_name, declared))
    extras = set(distribution(DISTRIBUTION).metadata.get_all("Provides-Extra") or []) - {"dev"}
    optional = {import_name(normal(r.name)) for extra in extras for r in requirements(DISTRIBUTION, {extra})} - names
    # torch.utils.tensorboard imports it.
    assert names - used == {"tensorboard"}
    # pydantic pins pydantic_core, which has the types of its errors; pytest is there where parametrize_with_checks is.
    others = used - names - set(sys.stdlib_module_names)
    assert others - optional == {"dfm_core", "dfm_plugins", "pydantic_core", "pytest"}
    assert others & optional  # the walk finds imports inside functions


def import_name(distribution_name: str) -> str:
    return IMPORT_NAMES.get(distribution_name, distribution_name.replace("-", "_"))


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.split(".")[0] for name in names}
