"""The plugin that ships: names and addresses of the built-in components. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import dfm_plugins.autoencoders.specs
import dfm_plugins.backbones.specs
import dfm_plugins.datasets.specs
import dfm_plugins.decompositions.specs
import dfm_plugins.stage_schedules.specs
import dfm_plugins.timestep_samplers.specs
from dfm_core.plugins import ComponentSpec, PresetSpec, hookimpl

DFM_PLUGIN_API = 1

PRESETS = Path(__file__).parent / "presets"


@hookimpl
def dfm_decompositions() -> list[ComponentSpec]:
    """List the built-in decompositions."""
    return [*dfm_plugins.decompositions.specs.SPECS]


@hookimpl
def dfm_stage_schedules() -> list[ComponentSpec]:
    """List the built-in stage schedules."""
    return [*dfm_plugins.stage_schedules.specs.SPECS]


@hookimpl
def dfm_timestep_samplers() -> list[ComponentSpec]:
    """List the built-in timestep samplers."""
    return [*dfm_plugins.timestep_samplers.specs.SPECS]


@hookimpl
def dfm_backbones() -> list[ComponentSpec]:
    """List the built-in backbones."""
    return [*dfm_plugins.backbones.specs.SPECS]


@hookimpl
def dfm_autoencoders() -> list[ComponentSpec]:
    """List the built-in autoencoders."""
    return [*dfm_plugins.autoencoders.specs.SPECS]


@hookimpl
def dfm_datasets() -> list[ComponentSpec]:
    """List the built-in data sets."""
    return [*dfm_plugins.datasets.specs.SPECS]


@hookimpl
def dfm_presets() -> list[PresetSpec]:
    """List the presets: a YAML file each, beside this module."""
    summaries = {
        "defaults": "What a run is without a word from you.",
        "defaults-accelerator": "What changes where there is a GPU.",
        "defaults-data": "What changes with --data: images from a folder.",
        "quickstart": "A small model of simple shapes, trained in minutes on two CPU cores.",
        "video-quickstart": "A small model of moving shapes, trained in minutes on two CPU cores.",
    }
    return [PresetSpec(name, summary, PRESETS / f"{name}.yaml") for name, summary in summaries.items()]
