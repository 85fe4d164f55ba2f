"""Which plugin files a configuration was made with: recorded with their hashes, asked for again, never loaded."""

from __future__ import annotations

from collections.abc import Iterable

from dfm_core.config.run_config import RecordedFile, RunConfig
from dfm_core.errors import ConfigError, PluginError
from dfm_core.plugins.kinds import RUN_KINDS
from dfm_core.plugins.plugin_file import PluginFile, short_hash
from dfm_core.plugins.registry import OBJECT_PREFIX, Registry

KEY = "plugin_files"


def with_plugin_files(
    config: RunConfig, registry: Registry, kinds: Iterable[str] = RUN_KINDS
) -> tuple[RunConfig, tuple[str, ...]]:
    """Record the files that supply components of a configuration, and compare them with those that it recorded.

    kinds: those whose components will be made; the records of others stay. Returns the configuration and what must be
    said: that a file has changed. What is given wins. Raises PluginError for a file that was not given again.
    """
    recorded, needed = config.plugin_files, set(kinds)
    records: dict[str, RecordedFile] = {}
    warnings: list[str] = []
    for kind in RUN_KINDS:
        namespace = namespace_of(config.component(kind).name)
        before = recorded.get(namespace)
        now = registry.plugin(namespace) if namespace else None
        if before is not None and now is None:
            if kind in needed:
                raise PluginError(_missing(config, kind, before))
            records[namespace] = before
            continue
        if before is not None and now is not None and namespace not in records:
            warnings += _changes(namespace, before, now.file, now.provider)
        if now is not None and now.file is not None:
            records[namespace] = RecordedFile(path=str(now.file.path), sha256=now.file.sha256)
    return config.model_copy(update={KEY: records}), tuple(dict.fromkeys(warnings))


def check_workers(config: RunConfig) -> None:
    """Raise ConfigError where other processes would need a class from a plugin file, which they cannot import."""
    name, file = config.component("dataset").name, dataset_file(config)
    if config.workers and file is not None:
        raise ConfigError(
            f"workers: expected 0, got {config.workers}: the data set {name!r} comes from the plugin file {file.path}, "
            "which the processes that load data cannot import; set workers=0, or make a package of the file with "
            f"`dfm plugins new {namespace_of(name)} --kind dataset`"
        )


def dataset_file(config: RunConfig) -> RecordedFile | None:
    """The plugin file that the data set comes from; None where it is no file's."""
    return config.plugin_files.get(namespace_of(config.component("dataset").name))


def namespace_of(name: str) -> str:
    """Namespace of a component as configurations name it; empty for built-in ones and for objects."""
    namespace, slash, _ = name.partition("/")
    return namespace if slash and not name.startswith(OBJECT_PREFIX) else ""


def _missing(config: RunConfig, kind: str, before: RecordedFile) -> str:
    return (
        f"{RUN_KINDS[kind].title} {config.component(kind).name!r} was made with the plugin file {before.path} "
        f"({short_hash(before.sha256)}), which is loaded only when it is given: add `--plugin {before.path}`, or the "
        "path where it lies now under the same name (in Python: registry=Registry.discover(files=[…]))"
    )


def _changes(namespace: str, before: RecordedFile, now: PluginFile | None, provider: str) -> list[str]:
    if now is None:
        was = f"the plugin file {before.path} ({short_hash(before.sha256)})"
        return [f"plugin {namespace!r} was {was}, it now is the installed {provider}"]
    if now.sha256 == before.sha256:
        return []
    hashes = f"it was {short_hash(before.sha256)}, now it is {short_hash(now.sha256)}"
    return [f"the plugin file {now.path} is not the one that this was made with: {hashes}"]
