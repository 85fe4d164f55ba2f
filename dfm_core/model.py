"""A model in the hands of its user: generate, watch, decompose, export, load."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dfm_core.assembly import Assembler, Objects
from dfm_core.composition import Composition, check_autoencoder, data_from_snapshot, snapshot
from dfm_core.config.plugin_files import with_plugin_files
from dfm_core.config.resolve import missing_kinds
from dfm_core.config.run_config import RunConfig
from dfm_core.config.settings import ComponentChoice
from dfm_core.devices import resolve_device
from dfm_core.errors import CheckpointError, DFMError, UsageError, suggest
from dfm_core.generation import GenerationStep, Guidance, generate_images
from dfm_core.interfaces.stage_schedule import StageScheduleFacts
from dfm_core.plugins.kinds import RUN_KINDS
from dfm_core.plugins.registry import OBJECT_PREFIX, Registry, default_registry
from dfm_core.schedule_coverage import check_schedule
from dfm_core.solvers import make_solver
from dfm_core.stages import Stages
from dfm_core.training.checkpoint import FOLDER, checkpoint_name, load_newest, open_checkpoint
from dfm_core.training.tensor_file import write_tensors

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"
logger = logging.getLogger("dfm")


class Model:
    """A composition with weights. Images are (B, C, H, W) float32 in [-1, 1], clips (B, C, T, H, W)."""

    def __init__(self, composition: Composition, assembler: Assembler, schedule: ComponentChoice | None = None) -> None:
        """Wrap a composition. schedule: of generation, where it is not that of the training (see `with_schedule`)."""
        self.composition = composition
        self.assembler = assembler
        self.schedule = schedule or composition.config.component("stage_schedule")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; empty for a model of unlabelled data."""
        return self.composition.data.classes

    def decompose(self, images: Tensor) -> Stages:
        """Split images or clips into stages as the flow sees them; a model of clips takes an image as one frame."""
        return self.composition.space.to_stages(images.to(self.composition.device))

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        """Put the first k stages together: images or clips at stage k's resolution."""
        return self.composition.space.to_images(stages)

    def with_schedule(self, name: str | None = None, **options: object) -> Model:
        """Return this model with another stage schedule, or with other options of the present one: steps=(30, 10).

        name: of a stage schedule, which begins with its default options; None stays with the present one. options:
        those that are None stay as they are. An export keeps the schedule of the training. Raises CompositionError for
        a schedule that shows stages together which training never did, ConfigError for wrong options,
        UnknownComponentError for a wrong name.
        """
        changes = {key: value for key, value in options.items() if value is not None}
        if name is None and not changes:
            return self
        choice = self.schedule if name is None else ComponentChoice(name=name)
        if choice.name.startswith(OBJECT_PREFIX):
            given = choice.name.removeprefix(OBJECT_PREFIX)
            raise UsageError(f"the stage schedule of this model is an object ({given}): name the one to use instead")
        composition, registry = self.composition, self.assembler.registry
        sigmas = composition.statistics.sigmas(composition.space.scales)
        merged = registry.override_options("stage_schedule", choice.name, choice.options, changes)
        facts = StageScheduleFacts(composition.num_stages, sigmas)
        schedule = registry.create("stage_schedule", choice.name, merged, facts)
        grid = schedule.grid()
        composition.model.path.check_grid(grid)
        check_schedule(composition.config, registry, grid, composition.timestep_sampler, sigmas, choice.name)
        changed = dataclasses.replace(composition, schedule=schedule, grid=grid)
        return Model(changed, self.assembler, ComponentChoice(name=choice.name, options=merged))

    def labels_for(self, num: int, labels: Sequence[int | str] | None = None) -> list[int] | None:
        """Return one class an image: `labels` in turn, or all classes. Raises UsageError for unknown ones."""
        if not self.classes:
            if labels:
                raise UsageError("this model was trained on unlabelled data: leave labels out")
            return None
        numbers = [self._class_number(label) for label in labels] if labels else list(range(len(self.classes)))
        return [numbers[index % len(numbers)] for index in range(num)]

    @property
    def _named_classes(self) -> str:
        return ", ".join(self.classes[:10]) + (" …" if len(self.classes) > 10 else "")

    def _class_number(self, label: int | str) -> int:
        if isinstance(label, str) and label in self.classes:
            return self.classes.index(label)
        try:
            number = int(label)
        except ValueError:
            expected = f"expected a class name or number: {self._named_classes}."
            raise UsageError(f"label {label!r}: {expected}{suggest(str(label), self.classes)}") from None
        if not 0 <= number < len(self.classes):
            raise UsageError(f"label {number}: expected 0 to {len(self.classes) - 1} ({self._named_classes})")
        return number

    def stream(
        self,
        num: int = 16,
        *,
        labels: Sequence[int | str] | None = None,
        seed: int = 0,
        cfg: float | None = None,
        cfg_interval: Sequence[float] | None = None,
        solver: str | None = None,
        first_index: int = 0,
    ) -> Iterator[GenerationStep]:
        """Generate `num` images or clips as one batch and yield the state after every step, with a preview on request.

        labels: class names or numbers, in turn. cfg: guidance weight, 1 none. cfg_interval: (low, high) of t in which a
        stage is guided. Both default to the run's. Image i depends on seed and first_index + i.
        """
        sampling = self.composition.config.sampling
        if num < 1:
            raise UsageError(f"num: expected at least 1 image, got {num}")
        chosen = self.labels_for(first_index + num, labels)
        weight = sampling.cfg if cfg is None else cfg
        interval = sampling.cfg_interval if cfg_interval is None else tuple(cfg_interval)
        name = solver or sampling.solver
        make_solver(name)  # a wrong name is an error now, not at the first step
        self.composition.model.eval()
        return self.composition.generate(
            range(first_index, first_index + num),
            None if chosen is None else chosen[first_index:],
            seed,
            name,
            Guidance(weight, interval),
        )

    def generate(self, num: int = 16, *, batch_size: int | None = None, **settings: Any) -> Tensor:
        """Generate images (num, C, H, W) or clips (num, C, T, H, W) in [-1, 1]; settings as in `stream`.

        The batch size does not change them.
        """
        size = batch_size or self.composition.config.sampling.batch_size
        parts = [(start, min(size, num - start)) for start in range(0, num, size)]
        return torch.cat([generate_images(self.stream(n, first_index=start, **settings)) for start, n in parts])

    def export(self, path: str | Path) -> Path:
        """Write the weights (model.safetensors) and all that describes them (model.json) to a new folder.

        Raises UsageError if it exists, DFMError if it cannot be written; then nothing of it remains.
        """
        target = Path(path)
        if target.exists():
            raise UsageError(f"{target} exists already; choose another folder")
        partial = target.parent / f".{target.name}.partial-{os.getpid()}"
        try:
            partial.mkdir(parents=True)  # with write_tensors: readable to whom the umask says
            write_tensors(partial / WEIGHTS_FILE, self.composition.model.backbone.state_dict())
            description = snapshot(self.composition, self.assembler.providers())
            (partial / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2))
            os.replace(partial, target)
        except OSError as error:
            raise DFMError(f"cannot write {target}: {error}. Is the disk full?") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target


def load(
    path: str | Path,
    *,
    device: str = "auto",
    objects: Objects | None = None,
    registry: Registry | None = None,
    step: int | None = None,
) -> Model:
    """Load a model from a run's folder (EMA weights of its newest complete checkpoint) or from an exported folder.

    step: of the checkpoint of a run to take instead of its newest. objects: for models that were built from objects
    instead of names, the same objects again. registry: with the plugin files that the model was made with,
    `Registry.discover(files=[…])`. Raises CheckpointError if there is no model at `path`, PluginError for a plugin file
    that is not given.
    """
    saved, weights = read_weights(Path(path), step)
    registry, providers = registry or default_registry(), saved.get("providers", {})
    made = [kind for kind in RUN_KINDS if kind != "dataset" and kind not in (objects or {})]
    recorded = RunConfig.model_validate({**missing_kinds(saved["config"], registry), **saved["config"]})
    config, warnings = with_plugin_files(recorded, registry, made)
    for message in warnings:
        logger.warning(message)
    assembler = Assembler(config, registry, objects, recorded=providers)
    assembler.check_providers(providers)
    data, statistics = data_from_snapshot(saved)
    composition = assembler.compose(data, statistics, resolve_device(device))
    check_autoencoder(saved, composition)
    try:
        composition.model.backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights do not fit the network that its config describes: {error}"
        ) from error
    composition.model.eval()
    return Model(composition, assembler)


def read_weights(path: Path, step: int | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description and the (averaged) weights of a run's or an exported folder, on the CPU.

    step: of a run's checkpoint; None takes the newest complete one.
    """
    if step is not None:
        checkpoint = open_checkpoint(path / FOLDER / checkpoint_name(step))
        return checkpoint.state, checkpoint.tensors("ema")
    if (path / DESCRIPTION_FILE).is_file():
        try:
            return json.loads((path / DESCRIPTION_FILE).read_text()), load_file(path / WEIGHTS_FILE)
        except Exception as error:
            raise CheckpointError(f"{path}: the exported model cannot be read ({error}); export it again") from error
    checkpoint, passed_over = load_newest(path)
    for message in passed_over:
        logger.warning(message)
    return checkpoint.state, checkpoint.tensors("ema")
