"""A run from its configuration: data, composition, trainer; begun, begun from other weights, or resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dfm_core.assembly import Assembler, Objects
from dfm_core.composition import Composition, DataDescription, check_autoencoder, data_from_snapshot, snapshot
from dfm_core.errors import DataError, UsageError
from dfm_core.interfaces.dataset import Dataset
from dfm_core.network_facts import parameter_groups, training_flops
from dfm_core.runs.beginning import check_sampling, check_self_contained, hint_at_small_stages, initialise_from
from dfm_core.runs.continuation import check_same_data, continue_elsewhere, new_output
from dfm_core.runs.evaluation import SkippedSamples, save_sample_grid, statistics_batches, validation
from dfm_core.runs.processes import check_data, compose_alike, joined_processes, newest_checkpoint, reporter_of
from dfm_core.runs.status import check_not_training, recorded_status
from dfm_core.stages import format_size
from dfm_core.training.checkpoint import Checkpoint
from dfm_core.training.data import SKIPPED_SHORT, BatchStream
from dfm_core.training.distributed import World
from dfm_core.training.progress import Reporter
from dfm_core.training.run_directory import RunDirectory
from dfm_core.training.sinks import check_sinks
from dfm_core.training.trainer import Trainer, TrainingResult

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.plugins.registry import Registry


@dataclass(frozen=True)
class FinishedRun:
    """What a training leaves.

    path: the run's folder. training: how it ended. composition: holds the raw weights. first_step: finished steps
    before it. unreadable, too_short: how many samples of the data were skipped, since they could not be read or were
    sound and too short; skipped.txt in the folder names them.
    """

    path: Path
    training: TrainingResult
    composition: Composition
    first_step: int
    unreadable: int
    too_short: int = 0


def describe_data(dataset: Dataset) -> DataDescription:
    """What a model must know of a data set. Raises DataError if it is empty."""
    if len(dataset) == 0:
        raise DataError("the training data is empty; expected at least one sample")
    sizes = {section.size for section in dataset.sections() or () if section.length}
    others = tuple(sorted(sizes - {tuple(dataset.facts.size)}))
    return DataDescription(dataset.channels, dataset.classes, dataset.latents, others)


def start_run(
    config: RunConfig,
    registry: Registry,
    *,
    objects: Objects | None = None,
    reporter: Reporter | None = None,
    announce: Callable[[Path, Composition], None] | None = None,
) -> FinishedRun:
    """Train a new run; with `config.init_from`, begin with the weights of another.

    announce(run folder, composition) is called when everything is made and the first step is next. Where torchrun
    started several processes, all of them call this.
    """
    began = time.monotonic()
    output = Path(config.output) if config.output else None
    if output is not None:
        RunDirectory.check_new(output)  # before the data is read, not after
    check_sinks(config.logging.sinks)
    assembler = Assembler(config, registry, objects)
    assembler.check_media()
    with joined_processes(assembler) as world:
        reporter = reporter_of(world, reporter)
        dataset, composition, skipped = _fresh_parts(world, assembler, reporter)
        name = config.name or default_name(config)
        run = RunDirectory(Path(world.once(lambda: str(RunDirectory.create(output, name).path))))
        return _train(world, run, assembler, composition, dataset, None, reporter, skipped, announce, began)


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

    One that was stopped before its first checkpoint begins anew. Raises CheckpointError if all are damaged.

    An `output` other than the run's own is a new folder: the run goes on there, and what lies at `path` stays. Where
    torchrun started several processes, all of them call this; the run may have had another number of them.
    """
    began = time.monotonic()
    run = RunDirectory.open(path)
    check_not_training(run)
    check_sinks(config.logging.sinks)
    assembler = Assembler(config, registry, objects)
    with joined_processes(assembler) as world:
        reporter = reporter_of(world, reporter)
        checkpoint = newest_checkpoint(world, path, reporter)
        target = world.once(lambda: new_output(run, config, registry))
        if checkpoint is None:
            reporter.warn(f"{path} has no checkpoint yet: it begins anew")
            if target is not None:
                run = RunDirectory(Path(world.once(lambda: str(RunDirectory.create(Path(target)).path))))
            dataset, composition, skipped = _fresh_parts(world, assembler, reporter)
            return _train(world, run, assembler, composition, dataset, None, reporter, skipped, announce, began)
        if config.training.max_steps < checkpoint.step:
            raise UsageError(
                f"{path} has {checkpoint.step} finished steps, expected a --max-steps (training.max_steps) of at least "
                f"that, got {config.training.max_steps}"
            )
        saved = checkpoint.state
        assembler.check_providers(saved["providers"])
        data, statistics = data_from_snapshot(saved)
        composition = assembler.compose(data, statistics, world.device)
        check_autoencoder(saved, composition)
        dataset = assembler.dataset()
        check_data(world, dataset)
        check_same_data(path, data, describe_data(dataset))
        if target is not None:
            run, checkpoint = continue_elsewhere(world, run, checkpoint, Path(target))
        skipped = SkippedSamples(reporter.warn)
        return _train(world, run, assembler, composition, dataset, checkpoint, reporter, skipped, announce, began)


def _fresh_parts(world: World, assembler: Assembler, reporter: Reporter) -> tuple[Dataset, Composition, SkippedSamples]:
    """Make what a run begins with: its data, and a composition with the statistics of it."""
    config, dataset = assembler.config, assembler.dataset()
    check_data(world, dataset)
    data = describe_data(dataset)
    check_sampling(config, data)
    skipped = SkippedSamples(reporter.warn)
    batches = statistics_batches(dataset, config.flow.statistics_images, skipped, reporter.say)
    composition = compose_alike(world, assembler, data, batches)
    hint = hint_at_small_stages(composition)
    if hint is not None:
        reporter.say(hint)
    if config.init_from is not None:
        initialise_from(composition, Path(config.init_from), reporter)
    else:
        check_self_contained(composition)
    return dataset, composition, skipped


def _train(
    world: World,
    run: RunDirectory,
    assembler: Assembler,
    composition: Composition,
    dataset: Dataset,
    start: Checkpoint | None,
    reporter: Reporter,
    skipped: SkippedSamples,
    announce: Callable[[Path, Composition], None] | None,
    began: float,
) -> FinishedRun:
    config = assembler.config
    stream = BatchStream(
        dataset,
        config.training.batch_size,
        config.seed,
        part=world.part(config.training.batch_size),
        workers=config.workers,
        pin_memory=composition.device.type == "cuda",
        warn=skipped,
    )
    if world.is_first:
        run.clear_partial_samples()
        run.write_config(config.model_dump(mode="json"))
        if announce is not None:
            announce(run.path, composition)
    with recorded_status(run, world.is_first) as status:
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
            on_samples=lambda step: save_sample_grid(
                composition, run.samples / f"step_{step:08d}.png" if world.is_first else None
            ),
            validate=validation(composition, assembler, skipped),
            reporter=reporter,
            world=world,
            blocks=composition.model.backbone.shardable_blocks(),
            parameter_groups=parameter_groups(composition.model.backbone),
            flops=count_flops(composition, reporter.warn) if config.logging.utilisation and world.is_first else None,
            began=began,
        )
        training = trainer.train(start)
        status.state = "interrupted" if training.interrupted else "finished"
    messages = {message for messages in world.gather(skipped.messages) for message in messages}
    if world.is_first:
        run.note_skipped(messages)
    short = sum(message.startswith(SKIPPED_SHORT) for message in messages)
    return FinishedRun(run.path, training, composition, start.step if start else 0, len(messages) - short, short)


def count_flops(composition: Composition, warn: Callable[[str], None]) -> int | None:
    """FLOPs of forward and backward of a step, over all processes; None, with a warning, if they cannot be counted."""
    backbone, size = composition.model.backbone, composition.config.training.batch_size
    try:
        shares = composition.timestep_sampler.visible_probabilities()
        labelled, kept = bool(composition.data.classes), composition.batch_shares
        return training_flops(backbone, composition.layout, size, labelled, shares, kept)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        warn(f"the network's FLOPs cannot be counted ({reason}), so its utilisation is not logged")
        return None


def default_name(config: RunConfig) -> str:
    """Name of a run's folder after its time: decomposition and stages."""
    sizes = "-".join(map(format_size, config.stages))
    return f"{config.component('decomposition').name}-{sizes}"
