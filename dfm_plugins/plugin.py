"""The plugin that ships: names and addresses of the built-in components. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import dfm_plugins.autoencoders.specs
import dfm_plugins.backbones.specs
import dfm_plugins.datasets.specs
import dfm_plugins.decompositions.specs
import dfm_plugins.metrics.specs
import dfm_plugins.paths.specs
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
def dfm_paths() -> list[ComponentSpec]:
    """List the built-in paths."""
    return [*dfm_plugins.paths.specs.SPECS]


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
def dfm_metrics() -> list[ComponentSpec]:
    """List the built-in metrics."""
    return [*dfm_plugins.metrics.specs.SPECS]


@hookimpl
def dfm_presets() -> list[PresetSpec]:
    """List the presets: a YAML file each, beside this module."""
    summaries = {
        "defaults": "What a run is without a word from you.",
        "defaults-accelerator": "What changes where there is a GPU.",
        "defaults-data": "What changes with --data: images from a folder.",
        "defaults-check": "What changes where `dfm plugins check` makes a small model.",
        "dfm": "The method, by name; beside it the competing systems:",
        "flow-matching": "Plain flow matching, one stage.",
        "cascaded": "Cascaded, first of two runs: the downsampled picture.",
        "cascaded-second": "Cascaded, second run: the picture, given the downsampled one (with --init-from).",
        "pyramidal-flow": "Pyramidal Flow: noisy enlarged pictures, one stage at a time.",
        "quickstart": "A small model of simple shapes, trained in minutes on two CPU cores.",
        "video-quickstart": "A small model of moving shapes, for two CPU cores.",
        "video-32": "Moving shapes at 32 pixels and eight frames, for two CPU cores.",
    }
    rows = sorted((PRESETS / "paper").glob("*.yaml"))
    return [
        *(PresetSpec(name, summary, PRESETS / f"{name}.yaml") for name, summary in summaries.items()),
        *(PresetSpec(path.stem, _first_comment(path), path) for path in rows),
    ]


def _first_comment(path: Path) -> str:
    """First line of a file, which begins with #: what a row of the paper's tables is, and the paper's number."""
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
