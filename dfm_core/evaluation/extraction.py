"""Features of a set of images, every process describing its own blocks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dfm_core.evaluation.image_sets import Shown, all_blocks, image_batches
from dfm_core.evaluation.sample_store import save_complete
from dfm_core.interfaces.dataset import Dataset
from dfm_core.interfaces.metric import Features, Metric
from dfm_core.stages import Size
from dfm_core.training.distributed import World

PLACES = "places of rows"
"""Name under which features carry the place of each row in its set."""
_BLOCKS_AT_ONCE = 256
"""Of a reference, blocks whose features are gathered before they are condensed: 16 384 images, or 2048 clips."""


def described_parts(
    metric: Metric,
    dataset: Dataset,
    indices: Sequence[int],
    parts: Sequence[range],
    world: World,
    *,
    scratch: Path,
    labelled: bool = True,
    workers: int = 0,
    warn: Callable[[str], None] | None = None,
    shown: Shown | None = None,
) -> Iterator[Features]:
    """Describe images part by part: the first process gets the features of each, in the order of `indices`.

    All processes must call, and get nothing of a part in its place. parts: ranges of places in `indices`, in order, of
    whole blocks. scratch: a folder that all see, where they put what they have. shown: see `image_batches`. Where no
    image of a part could be read, nothing is its features. Rows carry their places under PLACES.
    """
    blocks = all_blocks(len(indices), dataset.facts.size)
    own = [block for part in parts for block in _within(blocks, part)[world.index :: world.size]]
    batches = image_batches(
        dataset, indices, device=world.device, blocks=own, labelled=labelled, workers=workers, warn=warn, shown=shown
    )
    following = next(batches, None)
    for part in parts:
        found = []
        while following is not None and following.indices[0] in part:
            found.append({PLACES: torch.tensor(following.indices), **metric.features(following)})
            following = next(batches, None)
        together = _joined(found)
        if world.size > 1:
            together = _exchanged(together, world, scratch)
        if together:
            order = together[PLACES].argsort()
            together = {name: rows[order] for name, rows in together.items()}
        yield together


def parts_of(total: int, kept: int | None, size: Size) -> list[range]:
    """Places of a reference: first those of at least `kept` images (None: of all), then parts that are condensed.

    size: of each image or clip.
    """
    blocks = all_blocks(total, size)
    first = len(blocks) if kept is None else sum(block.start < kept for block in blocks)
    starts = range(first, len(blocks), _BLOCKS_AT_ONCE)
    groups = [blocks[:first], *(blocks[start : start + _BLOCKS_AT_ONCE] for start in starts)]
    return [range(group[0].start, group[-1].stop) for group in groups if group]


def first_rows(features: Features, most: int | None) -> Features:
    """Features of the images at the first `most` places, None: of all; without the places."""
    if not features:
        return {}
    number = None if most is None else int((features[PLACES] < most).sum())
    return {name: rows[:number] for name, rows in features.items() if name != PLACES}


def _within(blocks: Sequence[range], part: range) -> list[range]:
    return [block for block in blocks if block.start in part]


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
    """A temporary folder that all processes see; the first one removes it, when all are done.

    Where nothing can be written into `parent`, it is the system's, which processes of one machine see.
    """

    def make() -> str:
        with suppress(OSError):
            parent.mkdir(parents=True, exist_ok=True)
            return tempfile.mkdtemp(prefix=".features.", dir=parent)
        return tempfile.mkdtemp(prefix="dfm-features.")

    folder = Path(world.once(make))
    try:
        yield folder
        world.gather(None)
    finally:
        if world.is_first:
            shutil.rmtree(folder, ignore_errors=True)
