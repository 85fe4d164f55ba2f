"""A run from its configuration: data, composition, trainer; begun, begun from other weights, or resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dfm_core.assembly import Assembler, Objects
from dfm_core.composition import Composition, DataDescription, data_from_snapshot, snapshot
from dfm_core.config.resolve import read_config
from dfm_core.devices import resolve_device
from dfm_core.errors import CheckpointError, CompositionError, DataError, UsageError
from dfm_core.interfaces.dataset import Dataset
from dfm_core.model import read_weights
from dfm_core.run_evaluation import SkippedSamples, save_sample_grid, statistics_batches, validation
from dfm_core.solvers import make_solver
from dfm_core.stages import format_size
from dfm_core.training.checkpoint import Checkpoint, load_newest
from dfm_core.training.data import BatchStream
from dfm_core.training.progress import QuietReporter, Reporter
from dfm_core.training.run_directory import RunDirectory
from dfm_core.training.trainer import Trainer, TrainingResult

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.plugins.registry import Registry


@dataclass(frozen=True)
class FinishedRun:
    """What a training leaves.

    path: the run's folder. training: how it ended. composition: holds the raw weights. first_step: finished steps
    before it. unreadable: how many samples of the data could not be read and were skipped.
    """

    path: Path
    training: TrainingResult
    composition: Composition
    first_step: int
    unreadable: int


def describe_data(dataset: Dataset) -> DataDescription:
    """What a model must know of a data set. Raises DataError if it is empty."""
    if len(dataset) == 0:
        raise DataError("the training data is empty; expected at least one sample")
    return DataDescription(dataset.channels, dataset.classes)


def start_run(
    config: RunConfig,
    registry: Registry,
    *,
    objects: Objects | None = None,
    reporter: Reporter | None = None,
    init_from: Path | None = None,
    announce: Callable[[Path, Composition], None] | None = None,
) -> FinishedRun:
    """Train a new run. init_from: a run or an exported model whose weights it begins with.

    announce(run folder, composition) is called when everything is made and the first step is next.
    """
    output = Path(config.output) if config.output else None
    if output is not None:
        RunDirectory.check_new(output)  # before the data is read, not after
    device = resolve_device(config.device)
    reporter = reporter or QuietReporter()
    assembler = Assembler(config, registry, objects)
    dataset = assembler.dataset()
    data = describe_data(dataset)
    check_sampling(config, data)
    skipped = SkippedSamples(reporter.warn)
    images = statistics_batches(dataset, config.flow.statistics_images, skipped)
    composition = assembler.compose(data, None, device, images)
    if init_from is not None:
        initialise_from(composition, init_from, reporter)
    run = RunDirectory.create(output, config.name or default_name(config))
    run.write_config(config.model_dump(mode="json"))
    return _train(run, assembler, composition, dataset, None, reporter, skipped, announce)


def resume_run(
    path: Path,
    config: RunConfig,
    registry: Registry,
    *,
    objects: Objects | None = None,
    reporter: Reporter | None = None,
    announce: Callable[[Path, Composition], None] | None = None,
) -> FinishedRun:
    """Go on with the run at `path` from its newest complete checkpoint, under `config` (checked by the caller).

    An `output` other than the run's own is a new folder: the run goes on there, and what lies at `path` stays.
    """
    reporter = reporter or QuietReporter()
    run = RunDirectory.open(path)
    checkpoint, passed_over = load_newest(path)
    for message in passed_over:
        reporter.warn(message)
    if config.training.max_steps < checkpoint.step:
        raise UsageError(
            f"{path} has {checkpoint.step} finished steps, expected a --max-steps (training.max_steps) of at least "
            f"that, got {config.training.max_steps}"
        )
    target = new_output(run, config, registry)
    assembler = Assembler(config, registry, objects)
    saved = checkpoint.state
    assembler.check_providers(saved["providers"])
    data, statistics = data_from_snapshot(saved)
    composition = assembler.compose(data, statistics, resolve_device(config.device))
    dataset = assembler.dataset()
    if describe_data(dataset) != data:
        raise CheckpointError(
            f"{path} was trained on classes {data.classes}, the data now has {dataset.classes}; "
            "restore the data that it was trained on, or begin a new run with --init-from"
        )
    if target is not None:
        run, checkpoint = continue_elsewhere(run, checkpoint, target)
    run.write_config(config.model_dump(mode="json"))
    return _train(run, assembler, composition, dataset, checkpoint, reporter, SkippedSamples(reporter.warn), announce)


def check_sampling(config: RunConfig, data: DataDescription) -> None:
    """Raise UsageError for sampling settings that would stop the run only at its first sample grid."""
    make_solver(config.sampling.solver)
    if config.sampling.cfg != 1 and not data.classes:
        raise CompositionError(
            f"sampling.cfg={config.sampling.cfg:g} asks for guidance, which needs labels, and the data has none: "
            "set sampling.cfg=1, or use labelled data (a folder with a sub-folder for each class)"
        )


def new_output(run: RunDirectory, config: RunConfig, registry: Registry) -> Path | None:
    """Folder in which the run is to go on, None for where it lies. Raises UsageError if something is there."""
    before = read_config(run.config, registry).config.output
    if config.output is None or config.output == before or Path(config.output).resolve() == run.path.resolve():
        return None
    RunDirectory.check_new(Path(config.output))
    return Path(config.output)


def continue_elsewhere(run: RunDirectory, checkpoint: Checkpoint, target: Path) -> tuple[RunDirectory, Checkpoint]:
    """Copy what a run needs to go on (its checkpoint and its log) to the new folder `target`."""
    new = RunDirectory.create(target)
    path = new.path / checkpoint.path.relative_to(run.path)
    shutil.copytree(checkpoint.path, path)
    if run.metrics.exists():
        shutil.copyfile(run.metrics, new.metrics)
    if run.tensorboard.exists():
        shutil.copytree(run.tensorboard, new.tensorboard)
    return new, Checkpoint(path, checkpoint.state)


def _train(
    run: RunDirectory,
    assembler: Assembler,
    composition: Composition,
    dataset: Dataset,
    start: Checkpoint | None,
    reporter: Reporter,
    skipped: SkippedSamples,
    announce: Callable[[Path, Composition], None] | None,
) -> FinishedRun:
    config = assembler.config
    stream = BatchStream(
        dataset,
        config.training.batch_size,
        config.seed,
        workers=config.workers,
        pin_memory=composition.device.type == "cuda",
        warn=skipped,
    )
    if announce is not None:
        announce(run.path, composition)
    trainer = Trainer(
        module=composition.model.backbone,
        objective=composition.objective(),
        data=stream,
        settings=config.training,
        logging=config.logging,
        run=run,
        device=composition.device,
        seed=config.seed,
        snapshot=snapshot(composition, assembler.providers()),
        on_samples=lambda step: save_sample_grid(composition, run.samples / f"step_{step:08d}.png"),
        validate=validation(composition, assembler, skipped),
        reporter=reporter,
    )
    training = trainer.train(start)
    return FinishedRun(run.path, training, composition, start.step if start else 0, skipped.count)


def initialise_from(composition: Composition, source: Path, reporter: Reporter | None = None) -> None:
    """Copy the averaged weights of another run or exported model wherever name and shape agree.

    Raises CheckpointError if that covers less than half of the network.
    """
    _, weights = read_weights(source)
    own = composition.model.backbone.state_dict()
    fitting = {name: weight for name, weight in weights.items() if name in own and own[name].shape == weight.shape}
    taken, whole = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (fitting, own))
    if taken < whole / 2:
        raise CheckpointError(
            f"{source}: of this network's {whole} numbers only {taken} have a counterpart there of the same name and "
            "shape, expected at least half; use the same backbone and options"
        )
    composition.model.backbone.load_state_dict(fitting, strict=False)
    if reporter is not None:
        reporter.say(f"began with {len(fitting)} of {len(own)} tensors from {source}")


def default_name(config: RunConfig) -> str:
    """Name of a run's folder after its time: decomposition and stages."""
    sizes = "-".join(map(format_size, config.stages))
    return f"{config.component('decomposition').name}-{sizes}"
