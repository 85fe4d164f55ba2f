"""The Python API: build a model from names or objects, train it, load it. `Model` has the rest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfm_core.assembly import Assembler, with_objects
from dfm_core.config.resolve import PRESET, ConfigRequest, Level, preset_names, read_config, resolve_config
from dfm_core.config.resume import check_resume
from dfm_core.config.run_config import RunConfig
from dfm_core.devices import resolve_device
from dfm_core.model import Model, load
from dfm_core.plugins.kinds import RUN_KINDS
from dfm_core.plugins.registry import Registry, default_registry
from dfm_core.runs.evaluation import statistics_batches
from dfm_core.runs.start import describe_data, resume_run, start_run
from dfm_core.training.progress import make_reporter
from dfm_core.training.run_directory import CONFIG_FILE, RunDirectory

logger = logging.getLogger("dfm")

SHORTCUTS = {"max_steps": "training.max_steps", "batch_size": "training.batch_size"}
"""Keyword arguments that stand for longer keys of the configuration, as the flags of `dfm train` do."""


def build(*, registry: Registry | None = None, **settings: Any) -> Model:
    """Make a model with fresh weights, for training by hand, for looking at stages, for a test.

    settings: keys of the configuration (`stages`, `flow`, `seed`, …) and one argument a kind: a name, a mapping
    {"name": …, "options": …}, an object, or a callable (options, facts) that makes one. Reads some training data, for
    the statistics of the stages.
    """
    registry = registry or default_registry()
    config, objects = configure(settings, registry)
    assembler = Assembler(config, registry, objects)
    assembler.check_media()
    dataset = assembler.dataset()
    images = statistics_batches(dataset, config.flow.statistics_images)
    return Model(assembler.compose(describe_data(dataset), None, resolve_device(config.device), images), assembler)


def train(
    *,
    resume: str | Path | None = None,
    init_from: str | Path | None = None,
    quiet: bool = False,
    registry: Registry | None = None,
    **settings: Any,
) -> Model:
    """Train a model and return it with its averaged weights; the run's folder is written as by `dfm train`.

    settings: as for `build`, and `preset` (a name or several), `files`, `max_steps`, `batch_size`, `output`. resume:
    the folder of a run to go on with; init_from: a run or exported model whose weights to begin with. Errors as on the
    command line, as exceptions.
    """
    registry = registry or default_registry()
    reporter = make_reporter(quiet)
    if resume is not None:
        path = Path(resume)
        RunDirectory.open(path)
        config, objects = configure(settings, registry, base=path / CONFIG_FILE)
        check_resume(read_config(path / CONFIG_FILE, registry).config, config, registry)
        run = resume_run(path, config, registry, objects=objects, reporter=reporter)
    else:
        if init_from is not None:
            settings["init_from"] = str(init_from)
        config, objects = configure(settings, registry)
        run = start_run(config, registry, objects=objects, reporter=reporter)
    return load(run.path, device=config.device, objects=objects, registry=registry)


def configure(
    settings: Mapping[str, Any], registry: Registry, base: Path | None = None
) -> tuple[RunConfig, dict[str, Any]]:
    """Split the keyword arguments of `build` and `train` into a configuration and the objects among them."""
    values = dict(settings)
    objects = {kind: values.pop(kind) for kind in RUN_KINDS if not isinstance(values.get(kind, ""), str | Mapping)}
    for short, key in SHORTCUTS.items():
        if short in values:
            section, name = key.split(".")
            values[section] = {**values.get(section, {}), name: values.pop(short)}
    # Processes that load data import the caller's script, which may lack `if __name__ == "__main__"`: only if asked.
    alone = (Level({"workers": 0}, "default of the Python API", soft=True),)
    request = ConfigRequest(
        base=base,
        below=alone if base is None else (),
        accelerator=base is None and resolve_device(values.get("device", "auto")).type != "cpu",
        presets=preset_names(values.pop(PRESET, ()), "argument"),
        files=tuple(map(Path, values.pop("files", ()))),
        values=values,
    )
    resolved = resolve_config(request, registry)
    for message in resolved.warnings:
        logger.warning(message)
    return with_objects(resolved.config, objects), objects
