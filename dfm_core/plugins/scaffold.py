"""`dfm plugins new`: a package with one working component to edit, from the files in `templates/`."""

from __future__ import annotations

import ast
import builtins
import keyword
import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from string import Template

from dfm_core.errors import DFMError, UsageError, suggest
from dfm_core.plugins.discovery import ALL, BUILTIN, DISTRIBUTION, discover, installed_version
from dfm_core.plugins.kinds import KINDS

TEMPLATES = Path(__file__).parent / "templates"

# Also the end of a distribution's name, which packaging tools want to be a letter or a digit.
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SHORT_FLAGS = {"stage_schedule": "--schedule", "metric": "--metrics"}


@dataclass(frozen=True)
class Scaffold:
    """A package to be written. namespace: of the plugin. kind, name: of its component. Raises UsageError."""

    namespace: str
    kind: str
    name: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"--kind: unknown kind {self.kind!r}.{suggest(self.kind, KINDS)} Kinds: {', '.join(KINDS)}"
            )
        _check_namespace(self.namespace)
        _check_name(self.name, self.class_name)

    @property
    def distribution(self) -> str:
        """Name for pip, and of the folder."""
        return f"dfm-{self.namespace}"

    @property
    def package(self) -> str:
        """Name for `import`."""
        return _package(self.namespace)

    @property
    def class_name(self) -> str:
        """steerable_pyramid -> SteerablePyramid."""
        return "".join(part.capitalize() for part in self.name.split("_"))

    @property
    def component(self) -> str:
        """Name as users write it."""
        return f"{self.namespace}/{self.name}"

    @property
    def flag(self) -> str:
        """Flag that chooses a component of this kind."""
        return _SHORT_FLAGS.get(self.kind, f"--{self.kind.replace('_', '-')}")

    @property
    def use(self) -> str:
        """Command that uses the component."""
        command = "train" if KINDS[self.kind].part_of_run else "eval RUN"
        return f"dfm {command} {self.flag} {self.component}"

    @property
    def setting(self) -> str:
        """Value of `--set` that sets an option of the component, in that command."""
        place = f"{self.kind}.options" if KINDS[self.kind].part_of_run else self.component
        return f"{place}.NAME=VALUE"

    def next_commands(self, folder: Path) -> list[str]:
        """What to run once the package lies in `folder`."""
        return [
            f"pip install -e {shlex.quote(f'{folder}[test]')}",
            f"dfm plugins check {self.component}",
            f"pytest {shlex.quote(str(folder))}",
            self.use,
        ]

    def render(self) -> dict[str, str]:
        """Path in the package's folder -> text. Raises UsageError where the class would take another one's name."""
        values = {
            "namespace": self.namespace,
            "kind": self.kind,
            "title": KINDS[self.kind].title,
            "name": self.name,
            "distribution": self.distribution,
            "package": self.package,
            "class_name": self.class_name,
            "component": self.component,
            "use": self.use,
            "setting": self.setting,
            "requirement": f"{DISTRIBUTION}{compatible_versions(installed_version())}",
        }
        sources = {
            "pyproject.toml": "package/pyproject.toml",
            "README.md": "package/README.md",
            ".gitignore": "package/gitignore",
            f"{self.package}/__init__.py": "package/init.py",
            f"{self.package}/plugin.py": f"{self.kind}/plugin.py",
            f"{self.package}/{self.name}.py": f"{self.kind}/component.py",
            f"tests/test_{self.name}.py": "package/test.py",
        }
        texts = {path: _template(source).substitute(values) for path, source in sources.items()}
        if self.class_name in _imported_names(texts[f"{self.package}/{self.name}.py"]):
            raise UsageError(
                f"--name {self.name}: the class {self.class_name} would hide what its module imports under that name; "
                "choose another name"
            )
        return texts

    def write(self, output: Path) -> Path:
        """Write the folder of the package into `output` and return it.

        Raises UsageError if it exists, DFMError if it cannot be written; then nothing of it remains.
        """
        texts, target = self.render(), output / self.distribution
        if os.path.lexists(target):
            raise UsageError(
                f"{target} exists, and nothing was written. To add a component to the package in it, write its module "
                f"and list its spec in {self.package}/plugin.py by hand; for a new package, choose another --output"
            )
        try:
            output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{self.distribution}.", dir=output) as partial:
                for path, text in texts.items():
                    file = Path(partial, self.distribution, path)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(text, encoding="utf-8", newline="\n")
                Path(partial, self.distribution).rename(target)
        except OSError as error:
            raise DFMError(f"cannot write {target}: {error}; choose another --output") from error
        return target


def compatible_versions(version: str) -> str:
    """Bounds within which a package written for `version` works: ">=0.1,<0.2" for 0.1.3, ">=1.4,<2" for 1.4.2.

    Before 1.0 a minor version may break it. Raises UsageError where the framework is not installed.
    """
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None:
        raise UsageError(f"{DISTRIBUTION} is not installed (version {version!r}), so there is nothing to build on")
    major, minor = map(int, number.groups())
    public = version.partition("+")[0]
    # 0.2.0.dev1 comes before 0.2.
    lowest = f"{major}.{minor}" if re.fullmatch(r"[\d.]+(\.post\d+)?", public) else public
    return f">={lowest},<{major + 1}" if major else f">={lowest},<0.{minor + 1}"


def _package(namespace: str) -> str:
    return f"dfm_{namespace.replace('-', '_')}"


def _check_namespace(namespace: str) -> None:
    if not _NAMESPACE.fullmatch(namespace):
        raise UsageError(
            "expected a namespace of lower-case letters, digits, - and _, with a letter or digit at either end, "
            f"got {namespace!r}"
        )
    claims = [claim.record.info for claim in discover()]
    own = {__name__.partition(".")[0], *(info.address.partition(".")[0] for info in claims if info.is_builtin)}
    if namespace in (BUILTIN, ALL) or _package(namespace) in own:
        raise UsageError(f"the namespace {namespace!r} belongs to {DISTRIBUTION}; choose one of your own")
    for info in claims:
        # The same package may be written anew while it is installed.
        if info.namespace == namespace and info.distribution.replace("-", "_") != _package(namespace):
            raise UsageError(f"the namespace {namespace!r} is taken by the installed {info.provider}; choose another")


def _check_name(name: str, class_name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--name: expected lower-case letters, digits and _, with a letter first (as in steerable), got {name!r}"
        )
    if name == "plugin":
        raise UsageError("--name: plugin.py is the file that lists the components; choose another name than 'plugin'")
    if keyword.iskeyword(name) or hasattr(builtins, class_name):
        raise UsageError(
            f"--name: {name!r} would make the module {name}.py and the class {class_name}, and one of them means "
            "something else in Python; choose another name"
        )


def _template(source: str) -> Template:
    return Template((TEMPLATES / f"{source}.template").read_text(encoding="utf-8"))


def _imported_names(text: str) -> set[str]:
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}
