"""The flags that make a configuration, the same in every command that has one."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfm_core.cli.hardware import uses_accelerator
from dfm_core.cli.output import warning

if TYPE_CHECKING:
    from dfm_core.config.resolve import ConfigRequest, ResolvedConfig
    from dfm_core.config.run_config import RunConfig

PANEL = "Configuration"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # one letter is a drive


def _flag(help_text: str, metavar: str | None, *names: str) -> Any:
    return typer.Option(*names, help=help_text, metavar=metavar, rich_help_panel=PANEL, show_default=False)


@dataclass(frozen=True)
class ConfigFlags:
    """The flags, one a field; None where one was not given."""

    decomposition: Annotated[str | None, _flag("How data is split into stages.", "NAME")] = None
    stages: Annotated[
        str | None, _flag("Sizes in pixels, coarse to fine: 32,64 or 48x64,96x128; of clips 8x32x32,8x64x64.", "SIZES")
    ] = None
    frames: Annotated[int | None, _flag("Frames of a clip: 32,64 becomes 8x32x32,8x64x64.", "N")] = None
    path: Annotated[str | None, _flag("Probability path: what lies between noise and data.", "NAME")] = None
    backbone: Annotated[str | None, _flag("The network.", "NAME")] = None
    schedule: Annotated[str | None, _flag("Stage schedule: how generation visits the stages.", "NAME")] = None
    timestep_sampler: Annotated[str | None, _flag("Timesteps of a training batch.", "NAME")] = None
    autoencoder: Annotated[str | None, _flag("Between pixels and latents.", "NAME")] = None
    dataset: Annotated[str | None, _flag("The data set.", "NAME")] = None
    data: Annotated[str | None, _flag("Folder, file or URL of the data.", "PATH")] = None
    max_steps: Annotated[int | None, _flag("Optimiser steps in all.", "N")] = None
    max_minutes: Annotated[float | None, _flag("Minutes after which to stop, with a checkpoint.", "N")] = None
    batch_size: Annotated[int | None, _flag("Images or clips per optimiser step.", "N")] = None
    output: Annotated[str | None, _flag("Folder of the run.", "PATH")] = None
    parallel: Annotated[
        str | None, _flag("With several processes: ddp (a copy of the network in each) or fsdp (a shard).", "NAME")
    ] = None
    compile: Annotated[bool | None, _flag("Compile the network.", None, "--compile/--no-compile")] = None
    seed: Annotated[int | None, _flag("Seed of everything that is random.", "N")] = None
    device: Annotated[str | None, _flag("auto, cpu, cuda, cuda:N or mps.", "DEVICE")] = None
    config: Annotated[list[Path] | None, _flag("YAML file; may be repeated, later ones win.", "FILE")] = None
    preset: Annotated[list[str] | None, _flag("Preset; may be repeated, later ones win.", "NAME")] = None
    set: Annotated[
        list[str] | None, _flag("Any value, as in training.learning_rate=1e-3; may be repeated.", "KEY=VALUE")
    ] = None


KEYS = {
    "decomposition": "decomposition.name",
    "stages": "stages",
    "frames": "frames",
    "path": "path.name",
    "backbone": "backbone.name",
    "schedule": "stage_schedule.name",
    "timestep_sampler": "timestep_sampler.name",
    "autoencoder": "autoencoder.name",
    "dataset": "dataset.name",
    "data": "dataset.options.path",
    "max_steps": "training.max_steps",
    "max_minutes": "training.max_minutes",
    "batch_size": "training.batch_size",
    "parallel": "training.parallel",
    "compile": "training.compile",
    "output": "output",
    "seed": "seed",
    "device": "device",
}
"""Field of ConfigFlags -> dotted key of the configuration."""
THRESHOLDS = "stage_schedule.options.thresholds"
SCHEDULE_KEYS = {"steps": "stage_schedule.options.steps", "thresholds": THRESHOLDS}
"""Flags of the commands that take another schedule -> dotted key."""


def config_request(flags: ConfigFlags, base: Path | None = None) -> ConfigRequest:
    """Turn flags into a request. base: config.yaml of a run that goes on."""
    from dfm_core.config.resolve import ConfigRequest, Flag

    given = {name: getattr(flags, name) for name in KEYS}
    if flags.data is not None:
        given["data"] = _whole_address(flags.data)
    return ConfigRequest(
        base=base,
        data=flags.data is not None,
        presets=tuple(flags.preset or ()),
        files=tuple(flags.config or ()),
        settings=tuple(flags.set or ()),
        flags=tuple(Flag(flag_of(name), KEYS[name], value) for name, value in given.items() if value is not None),
    )


def _whole_address(data: str) -> str:
    """Make a path absolute, since a run may go on from another working directory; leave a URL as it is."""
    return data if _SCHEME.match(data) else os.path.abspath(os.path.expanduser(data))


def resolve_flags(
    flags: ConfigFlags, base: Path | None = None, check: Callable[[RunConfig], None] = lambda config: None
) -> ResolvedConfig:
    """Turn flags into a configuration; with a GPU, its defaults are laid in. Errors as `resolve_config`.

    check: refuses a configuration, before torch is imported to ask for a GPU.
    """
    from dfm_core.config.resolve import resolve_config

    request = config_request(flags, base)
    resolved = resolve_config(request)
    check(resolved.config)
    if base is None and uses_accelerator(resolved.config.device):
        resolved = resolve_config(dataclasses.replace(request, accelerator=True))
    for message in resolved.warnings:
        warning(message)
    if resolved.origins.get(THRESHOLDS) == "--set":
        warn_of_thresholds(f"--set {THRESHOLDS}", len(resolved.config.stages))
    return resolved


def warn_of_thresholds(flag: str, num_stages: int) -> None:
    """Warn that thresholds, which the user has typed, mean nothing to one stage. From a preset they may come along."""
    if num_stages == 1:
        warning(f"{flag}: changes nothing, since the only stage hands over to none; leave it out, or use more stages")


def with_flag_names(message: str, given: Collection[str]) -> str:
    """Put the flag before each key that begins a line of an error, where one of the `given` flags has set it.

    A key that is called like its flag, and a line that names the flag, stay.
    """
    keys = {key: flag_of(name) for name, key in (KEYS | SCHEDULE_KEYS).items() if name in given and key != name}
    return "\n".join(_with_flag_name(line, keys) for line in message.split("\n"))


def _with_flag_name(line: str, flags: Mapping[str, str]) -> str:
    path, colon, rest = line.partition(":")
    for key, flag in flags.items():
        if (path == key or path.startswith(f"{key}.")) and flag not in line:
            return f"{flag} ({path}){colon}{rest}"
    return line


def flag_of(name: str) -> str:
    """Name of a flag from that of its field: max_steps -> "--max-steps"."""
    return f"--{name.replace('_', '-')}"


def plugin_flags(config: RunConfig) -> str:
    """The flags that give a configuration's plugin files again, to follow a command; empty without any."""
    return "".join(f" --plugin {shlex.quote(file.path)}" for file in config.plugin_files.values())
