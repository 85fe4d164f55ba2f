"""A tiny comparison, as settings and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dfm_core.comparison.config import ComparisonConfig
from dfm_core.plugins.validation import validate

TINY: dict[str, Any] = {
    "base": {
        "stages": [8, 16],
        "device": "cpu",
        "backbone": {"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2, "token_grid": 4}},
        "stage_schedule": {"options": {"steps": [2, 1]}},
        "training": {"batch_size": 4, "max_steps": 8, "learning_rate": 1e-3, "warmup_steps": 2},
        "flow": {"statistics_images": 16},
        "logging": {
            **{"tensorboard": False, "log_every": 4, "checkpoint_every": 3, "sample_every": 0, "validation_every": 0},
            "utilisation": False,
        },
    },
    "variants": {
        "flow-matching": {"preset": "flow-matching", "stages": [16], "stage_schedule": {"options": {"steps": [3]}}},
        "haar": {"decomposition": {"name": "dwt", "options": {"wavelet": "haar"}}},
    },
    "evaluation": {
        "metrics": [{"name": "spectrum", "options": {"resamples": 2}}],
        **{"num": 12, "points": 2, "reference_num": 48, "batch_size": 4},
    },
}


def tiny(**changes: Any) -> ComparisonConfig:
    """The tiny comparison with other sections."""
    return validate(ComparisonConfig, {**TINY, **changes})


def write(path: Path, values: dict[str, Any]) -> Path:
    """Write a YAML file."""
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def shortened(file: Path) -> dict[str, Any]:
    """A file of an example with shallow networks, and of a sweep two values of each key."""
    values: dict[str, Any] = yaml.safe_load(file.read_text().replace("depth: 12", "depth: 1"))
    for key, swept in values.get("sweep", {}).items():
        values["sweep"][key] = dict([*swept.items()][:2]) if isinstance(swept, dict) else swept[:2]
        values.pop("reference", None)
    return values
