"""From layers to one checked configuration: defaults < presets < files < --set < flags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfm_core.config.layers import Layer, merge, nest
from dfm_core.config.plugin_files import KEY as PLUGIN_FILES
from dfm_core.config.plugin_files import check_workers, dataset_file, with_plugin_files
from dfm_core.config.run_config import RunConfig
from dfm_core.config.yaml_text import read_mapping, write_yaml
from dfm_core.errors import ConfigError, PluginError, UnknownComponentError
from dfm_core.plugins.kinds import RUN_KINDS
from dfm_core.plugins.registry import OBJECT_PREFIX, Registry, default_registry
from dfm_core.plugins.validation import origin_of, validate

PRESET = "preset"
"""Key of a file or preset that names presets to stand on."""
DEFAULTS = "defaults"
ACCELERATOR_DEFAULTS = "defaults-accelerator"
DATA_DEFAULTS = "defaults-data"
CHECK_DEFAULTS = "defaults-check"
DEFAULT = "default"
OPTION_DEFAULT = "default of the component's option"
GIVEN_FILE = "the file that was given"


@dataclass(frozen=True)
class Flag:
    """A command line flag as a value of the configuration. flag: its name, "--max-steps". key: dotted key."""

    flag: str
    key: str
    value: object


@dataclass(frozen=True)
class Level:
    """Values, nested or by dotted key, as a file holds them.

    origin: names their place in errors. soft: defaults, which go without a word where another component is chosen.
    """

    values: Mapping[str, Any]
    origin: str = "argument"
    soft: bool = False


@dataclass(frozen=True)
class ConfigRequest:
    """What a user asked for, before it is checked. Later fields win over earlier ones.

    Presets, files and levels may say `preset`: a name, or several, of presets that they stand on.

    base: config.yaml of a run that goes on; it stands in place of the defaults. accelerator: whether a GPU will do the
    work. data: whether a path to data was given, which chooses the data set that reads one. below: levels under all
    that follows. presets: names. files: YAML. settings: KEY=VALUE. flags: of the command line. values: nested, from
    Python. above: levels over all else.
    """

    base: Path | None = None
    accelerator: bool = False
    data: bool = False
    below: tuple[Level, ...] = ()
    presets: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    settings: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    above: tuple[Level, ...] = ()


@dataclass(frozen=True)
class ResolvedConfig:
    """A complete configuration.

    origins: dotted key of every value -> where it came from. warnings: what its user should be told, such as that a
    plugin file is not the recorded one.
    """

    config: RunConfig
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def resolve_config(request: ConfigRequest | None = None, registry: Registry | None = None) -> ResolvedConfig:
    """Merge and check a configuration; component options come out complete, with their defaults.

    Raises ConfigError with path, expected, got and origin; UnknownComponentError and PluginError for components.
    """
    registry = registry or default_registry()
    leaves = merge(_layers(request or ConfigRequest(), registry))
    origins = {key: leaf.origin for key, leaf in leaves.items()}
    checked = validate(RunConfig, nest(leaves), origins=origins)
    recorded, warnings = with_plugin_files(checked, registry)
    if origins.get("workers") == f"{ACCELERATOR_DEFAULTS} preset" and dataset_file(recorded) is not None:
        recorded = recorded.model_copy(update={"workers": 0})  # nobody asked for those that cannot import it
    check_workers(recorded)
    config = with_option_defaults(recorded, registry, origins)
    return ResolvedConfig(config, _complete(origins, config), warnings)


def with_option_defaults(config: RunConfig, registry: Registry, origins: Mapping[str, str] | None = None) -> RunConfig:
    """Check each component's options by its own model, and fill in their defaults."""
    choices = {}
    for kind in RUN_KINDS:
        choice = config.component(kind)
        if choice.name.startswith(OBJECT_PREFIX):
            continue  # whoever made it checked its options
        try:
            options = registry.validate_options(kind, choice.name, choice.options, origins)
        except (UnknownComponentError, PluginError) as error:
            origin = (origins or {}).get(f"{kind}.name")
            raise type(error)(f"{error} (from {origin})" if origin else str(error)) from error
        choices[kind] = choice.model_copy(update={"options": options.model_dump(mode="json")})
    return config.model_copy(update=choices)


def to_yaml(config: RunConfig) -> str:
    """Write a configuration so that `read_config` gives it back."""
    return write_yaml(config.model_dump(mode="json"))


def read_config(path: Path, registry: Registry | None = None) -> ResolvedConfig:
    """Read the config.yaml of a run. Raises ConfigError."""
    return resolve_config(ConfigRequest(base=path), registry)


def missing_kinds(written: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Return the default components of kinds that a recorded configuration lacks: it is older than these kinds."""
    defaults = read_mapping(registry.preset(DEFAULTS), f"{DEFAULTS} preset")
    return {kind: defaults[kind] for kind in RUN_KINDS if kind not in written and kind in defaults}


def flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested values by dotted key; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{path}.{name}" if path else str(name)
        flat |= flatten(value, key) if isinstance(value, Mapping) and value else {key: value}
    return flat


def _complete(origins: Mapping[str, str], config: RunConfig) -> dict[str, str]:
    complete = {}
    for key in flatten(config.model_dump(mode="json")):
        kind, _, rest = key.partition(".")
        if kind == PLUGIN_FILES and rest:
            complete[key] = GIVEN_FILE
            continue
        default = OPTION_DEFAULT if kind in RUN_KINDS and rest.startswith("options.") else DEFAULT
        complete[key] = origin_of(key, origins) or default
    return complete


def _layers(request: ConfigRequest, registry: Registry) -> list[Layer]:
    if request.base is not None:
        written = read_mapping(request.base, f"file {request.base}")
        later = Layer.of(missing_kinds(written, registry), f"{DEFAULTS} preset", soft=True)
        layers = [later, Layer.of(written, f"file {request.base}")]
    else:
        wanted = {DEFAULTS: True, ACCELERATOR_DEFAULTS: request.accelerator, DATA_DEFAULTS: request.data}
        layers = [layer for name, used in wanted.items() if used for layer in _preset_layers(name, registry, soft=True)]
    files = [Level(read_mapping(path, f"file {path}"), f"file {path}") for path in request.files]
    layers += [layer for level in request.below for layer in _level_layers(level, registry)]
    layers += [layer for name in request.presets for layer in _preset_layers(name, registry)]
    layers += [layer for level in files for layer in _level_layers(level, registry)]
    # One layer: `--decomposition x --set decomposition.options.y=1` belong together, in any order.
    command_line = Layer()
    command_line.put_settings(request.settings)
    for flag in request.flags:
        command_line.put(flag.key, flag.value, f"{flag.flag} flag")
    layers += [command_line, Layer.of(request.values, "argument")]
    return layers + [layer for level in request.above for layer in _level_layers(level, registry)]


def preset_names(given: object, origin: str) -> tuple[str, ...]:
    """Names of presets, given as one, as several, or not at all. Raises ConfigError."""
    names = (given,) if isinstance(given, str) else given or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{PRESET}: expected the name of a preset, or a list of them, got {given!r} ({origin})")
    return tuple(names)


def _level_layers(level: Level, registry: Registry, inside: tuple[str, ...] = ()) -> Iterator[Layer]:
    """Layers of the presets that a level stands on, then its own. inside: names of presets that this is read for."""
    for name in preset_names(level.values.get(PRESET), level.origin):
        if name in inside:
            raise ConfigError(f"presets stand on each other in a circle: {' on '.join((*inside, name))}")
        yield from _preset_layers(name, registry, level.soft, inside)
    yield Layer.of({key: value for key, value in level.values.items() if key != PRESET}, level.origin, level.soft)


def _preset_layers(name: str, registry: Registry, soft: bool = False, inside: tuple[str, ...] = ()) -> Iterator[Layer]:
    origin = f"{name} preset" if soft else f"preset {name}"
    level = Level(read_mapping(registry.preset(name), origin), origin, soft)
    return _level_layers(level, registry, (*inside, name))
