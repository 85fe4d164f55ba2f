"""A plugin that is one file: named by the user, read once, run as a module that nothing else can be."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from dfm_core.errors import PluginError

SUFFIX = ".py"


def short_hash(sha256: str) -> str:
    """A hash as messages and lists show it: "sha256 0123456789ab"."""
    return f"sha256 {sha256[:12]}"


@dataclass(frozen=True)
class PluginFile:
    """A file as it was when it was read. path: absolute. sha256: of the source, in hexadecimal digits."""

    path: Path
    sha256: str
    source: bytes = field(repr=False)

    @classmethod
    def read(cls, given: str | Path) -> PluginFile:
        """Read a file without running it. Raises PluginError if there is none or it is no Python file."""
        path = Path(os.path.abspath(Path(given).expanduser()))
        if path.is_dir():
            raise PluginError(f"plugin file {path}: expected a Python file, got a folder; install packages with pip")
        if path.suffix != SUFFIX:
            raise PluginError(f"plugin file {path}: expected a Python file, NAME{SUFFIX}")
        try:
            source = path.read_bytes()
        except OSError as error:
            raise PluginError(f"plugin file {path}: cannot be read: {error.strerror}") from error
        return cls(path, hashlib.sha256(source).hexdigest(), source)

    @property
    def namespace(self) -> str:
        """Namespace of its components: the file's name without the suffix."""
        return self.path.stem

    @property
    def version(self) -> str:
        """What stands in the place of a distribution's version."""
        return short_hash(self.sha256)

    @property
    def module(self) -> str:
        """Name of its module in this process: of this content at this path, and of nothing else."""
        digest = hashlib.sha256(os.fsencode(self.path) + b"\0" + self.source).hexdigest()
        word = self.namespace.replace("-", "_")
        return f"_dfm_plugin_file_{word}_{digest[:16]}"

    def load(self) -> ModuleType:
        """Run the file, once a process, and return its module. What the file raises is passed on."""
        known = sys.modules.get(self.module)
        if known is not None:
            return known
        module = ModuleType(self.module)
        module.__file__ = str(self.path)
        # Before it runs: pydantic and dataclasses look names up in sys.modules.
        sys.modules[self.module] = module
        try:
            exec(compile(self.source, str(self.path), "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            sys.modules.pop(self.module, None)
            raise
        return module
