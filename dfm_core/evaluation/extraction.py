"""Features of a set of images, every process describing its own blocks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dfm_core.errors import DataError
from dfm_core.evaluation.image_sets import all_blocks, image_batches
from dfm_core.evaluation.sample_store import save_complete
from dfm_core.interfaces.dataset import Dataset
from dfm_core.interfaces.metric import Features, Metric
from dfm_core.training.distributed import World

_PLACES = "places of rows"


def collect_features(
    metric: Metric,
    dataset: Dataset,
    indices: Sequence[int],
    world: World,
    *,
    scratch: Path,
    labelled: bool = True,
    workers: int = 0,
    warn: Callable[[str], None] | None = None,
) -> Features:
    """Describe images; returns their features in the order of `indices` in the first process, nothing in others.

    All processes must call. scratch: a folder that all see, where they put what they have. Raises DataError where no
    image could be read.
    """
    chosen = indices[: metric.most_images]
    blocks = all_blocks(len(chosen), dataset.facts.size)[world.index :: world.size]
    batches = image_batches(
        dataset, chosen, device=world.device, blocks=blocks, labelled=labelled, workers=workers, warn=warn
    )
    own = _joined({_PLACES: torch.tensor(batch.indices), **metric.features(batch)} for batch in batches)
    if world.size > 1:
        own = _exchanged(own, world, scratch)
    if not own:
        if world.is_first:
            raise DataError("no image could be read, expected at least one")
        return {}
    order = own.pop(_PLACES).argsort()
    return {name: rows[order] for name, rows in own.items()}


def _joined(parts: Iterable[Features]) -> Features:
    """Rows of several parts below each other."""
    listed: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, rows in part.items():
            listed.setdefault(name, []).append(rows)
    return {name: torch.cat(rows) for name, rows in listed.items()}


def _exchanged(own: Features, world: World, scratch: Path) -> Features:
    """All processes' features in the first one, nothing in the others."""
    with shared_folder(world, scratch) as folder:
        if own:
            save_complete(folder / f"{world.index}.safetensors", own)
        world.gather(None)
        if not world.is_first:
            return {}
        return _joined(load_file(file) for file in sorted(folder.glob("*.safetensors")))


@contextmanager
def shared_folder(world: World, parent: Path) -> Iterator[Path]:
    """A temporary folder that all processes see; the first one removes it, when all are done."""

    def make() -> str:
        parent.mkdir(parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix=".features.", dir=parent)

    folder = Path(world.once(make))
    try:
        yield folder
        world.gather(None)
    finally:
        if world.is_first:
            shutil.rmtree(folder, ignore_errors=True)
