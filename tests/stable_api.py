"""What is public in the stable modules, read from their source: names, signatures, documentation; names of laws.

`python tests/stable_api.py` writes the list to stable_api.txt, which the tests compare.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STABLE = ("interfaces", "stages", "flow", "residual_pyramid", "randomness", "plugins", "conformance", "errors")
ROOT = Path(__file__).parents[1]
PINNED = Path(__file__).with_name("stable_api.txt")
RENEW = "python tests/stable_api.py"
HEADER = f"""\
# What plugin authors may rely on: the public names of the stable modules, with their signatures, hooks, laws.
# Written by `{RENEW}`, compared by the tests. A line that is added is fine. One that goes or
# changes breaks plugins that are installed somewhere: then API_VERSION (dfm_core/plugins/hookspecs.py) must rise, too.
"""

Definition = ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True)
class Entry:
    """One public thing.

    where: "module" or "module:Class" in which users find it. source: the module that defines it. documentation: its own
    text, or the one that speaks of it by name where it stands.
    """

    where: str
    name: str
    line: str
    source: str
    node: Definition
    documentation: str


def path_of(module: str) -> Path:
    """File of a module or package."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def stable_modules() -> list[str]:
    """The stable modules; of a package without a list of names, its modules, too."""
    found = []
    for module in (f"dfm_core.{name}" for name in STABLE):
        found.append(module)
        if path_of(module).name == "__init__.py" and promised(module) is None:
            inner = sorted(path.stem for path in path_of(module).parent.glob("[!_]*.py"))
            found += [f"{module}.{name}" for name in inner]
    return found


def promised(module: str) -> list[str] | None:
    """What stands in a module's __all__, None without one."""
    for statement in tree_of(module).body:
        if isinstance(statement, ast.Assign) and names_of(statement) == ["__all__"]:
            return sorted(ast.literal_eval(statement.value))
    return None


def names_of(statement: ast.stmt) -> list[str]:
    """Names that a statement defines."""
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            return [name.id for name in names]
    return []


def imported_names(module: str) -> dict[str, tuple[str, str]]:
    """Name in a module -> (module of core that it is imported from, its name there)."""
    imports = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.ImportFrom)]
    core = [node for node in imports if node.module and node.module.startswith("dfm_core")]
    return {alias.asname or alias.name: (str(node.module), alias.name) for node in core for alias in node.names}


def definitions(body: list[ast.stmt]) -> dict[str, tuple[Definition, str]]:
    """Name -> its definition among these statements, and the text directly below it."""
    found: dict[str, tuple[Definition, str]] = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        text = following.value if isinstance(following, ast.Expr) else None
        below = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
        for name in names_of(statement):
            if isinstance(statement, Definition):
                found[name] = (statement, below)
    return found


def definition(module: str, name: str) -> tuple[str, Definition, str]:
    """Return the module that defines what `module` calls `name`, the definition, and the text below it."""
    own = definitions(tree_of(module).body)
    if name in own:
        return (module, *own[name])
    imported = imported_names(module)
    if name in imported:
        return definition(*imported[name])
    value = getattr(importlib.import_module(module), name)  # one that the module fetches when it is asked for
    return definition(value.__module__, value.__name__)


def public_names(module: str) -> list[str]:
    """Names in __all__, or those without underscore that the module itself defines."""
    listed = promised(module)
    own = definitions(tree_of(module).body) if listed is None else dict.fromkeys(listed)
    return sorted(name for name in own if not name.startswith("_"))


def entries(module: str) -> Iterator[Entry]:
    """All that is public in a module: its names and, after each class, the members that the class itself defines."""
    about = ast.get_docstring(tree_of(module)) or ""
    for name in public_names(module):
        source, node, below = definition(module, name)
        yield Entry(module, name, line_of(name, node), source, node, documentation(name, node, below, about))
        if isinstance(node, ast.ClassDef):
            for member, (inner, text) in definitions(node.body).items():
                if is_public(member):
                    told = documentation(member, inner, text, ast.get_docstring(node) or "")
                    yield Entry(f"{module}:{name}", member, line_of(member, inner), source, inner, told)


def is_public(member: str) -> bool:
    if member == "model_config":  # pydantic's
        return False
    return not member.startswith("_") or (member.startswith("__") and member.endswith("__"))


def documentation(name: str, node: Definition, below: str, around: str) -> str:
    """Text of a definition; for a field or constant the text below it, or the one around it that names it."""
    own = ast.get_docstring(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else below or description(node)
    words = name.strip("_").replace("_", "[_ ]")
    return own or (around if name.startswith("__") or re.search(rf"\b{words}\b", around) else "")


def description(node: Definition) -> str:
    """Text of a pydantic field."""
    call = node.value if isinstance(node, ast.AnnAssign) else None
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return next((ast.literal_eval(part.value) for part in keywords if part.arg == "description"), "")


def line_of(name: str, node: Definition) -> str:
    """How a definition is pinned."""
    if isinstance(node, ast.Assign):
        return f"{name} = {ast.unparse(node.value)}"
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node)
    marks = "".join(f"@{mark.split('(')[0]} " for mark in map(ast.unparse, node.decorator_list))
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"{marks}class {name}({bases})" if bases else f"{marks}class {name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{marks}{name}({ast.unparse(node.args)}){returns}"


def hooks() -> list[str]:
    """A line for each hook of a plugin module."""
    from dfm_core.plugins.hookspecs import HOOKS

    return [f"{name}() -> list[{spec.__name__}]" for name, spec in sorted(HOOKS.items())]


def laws() -> list[str]:
    """A line for each law of a kind, and of a model: its name is a key of `expected_failures` and of `--json`."""
    from dfm_core.conformance import laws_of
    from dfm_core.plugins.kinds import KINDS

    return [f"{kind}: {name}" for kind in (*KINDS, "composition") for name in sorted(law.name for law in laws_of(kind))]


def listing() -> str:
    """The text of the file."""
    lines = [HEADER.rstrip()]
    for module in stable_modules():
        lines += ["", module, *(f"{'    ' * (1 + (':' in entry.where))}{entry.line}" for entry in entries(module))]
    lines += ["", "hooks of a plugin module", *(f"    {hook}" for hook in hooks())]
    return "\n".join([*lines, "", "names of laws", *(f"    {law}" for law in laws()), ""])


def write(path: Path = PINNED) -> None:
    """Write the list."""
    path.write_text(listing(), encoding="utf-8")


if __name__ == "__main__":
    write()
    print(f"wrote {PINNED}; look at its difference before you commit it")
