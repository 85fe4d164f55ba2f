"""What the processes of one run do together before they train: agree, share statistics, find the checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from dfm_core.assembly import Assembler
from dfm_core.composition import Composition, DataDescription, data_from_snapshot
from dfm_core.config.resolve import flatten
from dfm_core.devices import resolve_device
from dfm_core.interfaces.dataset import Dataset
from dfm_core.training.checkpoint import Checkpoint, list_checkpoints, load_newest
from dfm_core.training.distributed import World, check_same, joined_world
from dfm_core.training.progress import QuietReporter, Reporter


@contextmanager
def joined_processes(assembler: Assembler) -> Iterator[World]:
    """Join the processes of this run, if there are several; they must want the same. Raises WorldError."""
    config = assembler.config
    with joined_world(resolve_device(config.device)) as world:
        if not world.is_first:
            logging.getLogger("dfm").setLevel(logging.ERROR)  # the first says what all would
        world.part(config.training.batch_size)
        check_same(world, _identity(assembler))
        yield world


def _identity(assembler: Assembler) -> Mapping[str, object]:
    """What all processes of a run must have in common."""
    providers = {f"{kind} plugin": provider for kind, provider in assembler.providers().items()}
    return {**flatten(assembler.config.model_dump(mode="json")), **flatten(providers), "torch": torch.__version__}


def reporter_of(world: World, reporter: Reporter | None) -> Reporter:
    """The reporter of this process: only the first says more than warnings."""
    return reporter if reporter and world.is_first else QuietReporter()


def check_data(world: World, dataset: Dataset) -> None:
    """Raise WorldError if the processes see different data: each would train on parts of other batches."""
    check_same(world, {"samples of the data": len(dataset), "classes of the data": list(dataset.classes)})


def compose_alike(
    world: World, assembler: Assembler, data: DataDescription, batches: Iterable[Mapping[str, torch.Tensor]]
) -> Composition:
    """Compose with statistics that the first process estimates."""
    if world.is_first:
        composition = assembler.compose(data, None, world.device, batches)
        world.once(lambda: asdict(composition.statistics))
        return composition
    _, statistics = data_from_snapshot({"data": asdict(data), "statistics": world.once(dict)})
    return assembler.compose(data, statistics, world.device)


def newest_checkpoint(world: World, path: Path, reporter: Reporter) -> Checkpoint | None:
    """Find the newest complete checkpoint, in the first process for all: verifying reads the whole of it.

    None where none was written yet. Raises CheckpointError if there are some, and all are damaged.
    """

    def find() -> tuple[str, dict[str, object]] | None:
        if not list_checkpoints(path):
            return None
        checkpoint, passed_over = load_newest(path)
        for message in passed_over:
            reporter.warn(message)
        return str(checkpoint.path), checkpoint.state

    found = world.once(find)
    return None if found is None else Checkpoint(Path(found[0]), found[1])
