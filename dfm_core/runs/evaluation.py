"""What a run measures and shows of itself: statistics of its data, validation losses, sample grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from dfm_core.assembly import Assembler
from dfm_core.clips import write_gif
from dfm_core.composition import Composition
from dfm_core.generation import generate_images
from dfm_core.images import make_grid, save_png
from dfm_core.interfaces.dataset import Dataset
from dfm_core.pictures.clip_gallery import grid_of_clips, sheet_of_clips
from dfm_core.pictures.gallery import grid_columns
from dfm_core.randomness import BatchRandomness, derive_generator, derive_seed
from dfm_core.stages import format_size
from dfm_core.training.data import UnreadableSamples, load_batch
from dfm_core.training.order import EpochOrder

STATISTICS_BATCH = 16
STATISTICS_PIXELS = 2**26
"""Pixels from which statistics are estimated at most: 256 images of 512x512, a few seconds on one core."""
FEWEST_STATISTICS_IMAGES = 64
"""Images that are taken however large: the error of 16 would reach 5% (docs/decisions/0003-small-choices.md)."""


class SkippedSamples:
    """Warnings about unreadable samples, each passed on once, whoever comes across the sample; and their number."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._messages: set[str] = set()

    def __call__(self, message: str) -> None:
        """Warn, unless it was said before."""
        if message not in self._messages:
            self._messages.add(message)
            self._warn(message)

    @property
    def messages(self) -> list[str]:
        """What was passed on: one message a sample, sorted."""
        return sorted(self._messages)


def fixed_choice(dataset: Dataset, count: int) -> list[int]:
    """Indices of at most `count` samples, the same for the same data and seed.

    Drawn over the whole of it, or from `shuffle_window` of its shards, or from the first of its sections, where it has
    any.
    """
    if dataset.shard_lengths() is not None:
        # All shards may be far away and large.
        return EpochOrder(dataset, derive_seed(dataset.facts.seed, "fixed choice")).indices(0, 0, count)
    # Not the first ones: folders are sorted by class.
    generator = derive_generator(dataset.facts.seed, "fixed choice")
    sections = dataset.sections()
    length = len(dataset) if sections is None else sections[0].length
    return torch.randperm(length, generator=generator)[:count].tolist()


def statistics_size(dataset: Dataset, num_images: int) -> int:
    """How many of `num_images` samples the statistics are estimated from: fewer where those are large."""
    size = dataset.facts.size if dataset.latents is None else dataset.latents.shape[1:]
    affordable = STATISTICS_PIXELS // math.prod(size)
    return min(num_images, len(dataset), max(FEWEST_STATISTICS_IMAGES, affordable))


def statistics_batches(
    dataset: Dataset,
    num_images: int,
    warn: Callable[[str], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The samples from which stage statistics are estimated, batch by batch.

    num_images: of which large ones are fewer, see `statistics_size`. warn: told of unreadable ones. say: told what is
    measured, where that takes long.
    """
    indices = fixed_choice(dataset, statistics_size(dataset, num_images))
    if say is not None and len(indices) * math.prod(dataset.facts.size) > STATISTICS_PIXELS // 4:
        say(f"statistics of the stages, from {len(indices)} samples of {format_size(dataset.facts.size)} pixels …")
    unreadable = UnreadableSamples(len(dataset), warn)
    for start in range(0, len(indices), STATISTICS_BATCH):
        yield load_batch(dataset, indices[start : start + STATISTICS_BATCH], unreadable=unreadable)


def save_sample_grid(composition: Composition, path: Path | None) -> None:
    """Generate the run's own samples, always from the same noise, and write them as one picture; None: write nothing.

    Clips: a contact sheet, a row a clip, and beside it a GIF. With several processes all of them generate, since they
    may share the network, and one writes.
    """
    sampling = composition.config.sampling
    classes = len(composition.data.classes)
    images = []
    for first in range(0, sampling.num, sampling.batch_size):
        indices = range(first, min(first + sampling.batch_size, sampling.num))
        labels = [index % classes for index in indices] if classes else None
        images.append(generate_images(composition.generate(indices, labels, seed=composition.config.seed)).cpu())
    if path is None:
        return
    samples, columns = torch.cat(images), grid_columns(sampling.num, min(classes, sampling.num))
    if samples.ndim == 5:
        save_png(path, sheet_of_clips(samples))
        write_gif(path.with_suffix(".gif"), grid_of_clips(samples, columns), sampling.frame_rate)
    else:
        save_png(path, make_grid(samples, columns))


def validation(
    composition: Composition, assembler: Assembler, warn: Callable[[str], None]
) -> Callable[[], dict[str, float]] | None:
    """Return a function that measures the loss on held-out data with fixed noise, or None where there is none.

    warn: told of unreadable samples.
    """
    config = assembler.config
    if not config.logging.validation_every:
        return None
    dataset = assembler.dataset("validation")
    chosen = fixed_choice(dataset, config.logging.validation_images)
    if not chosen:
        return None
    objective, size = composition.objective(), config.training.batch_size
    seed = derive_seed(config.seed, "validation")
    unreadable = UnreadableSamples(len(dataset), warn)

    @torch.no_grad()
    def validate() -> dict[str, float]:
        reports, sizes = [], []
        for step, first in enumerate(range(0, len(chosen), size)):
            indices = chosen[first : first + size]
            loaded = load_batch(dataset, indices, unreadable=unreadable)
            batch = {name: value.to(composition.device) for name, value in loaded.items()}
            reports.append(objective(batch, BatchRandomness(seed, step, 0, len(indices), len(indices))))
            sizes.append(len(indices))
        sums, counts = torch.stack([report.parts for report in reports]).sum(0).cpu()
        loss = sum(float(report.loss) * size for report, size in zip(reports, sizes, strict=True)) / len(chosen)
        return {"loss": loss, **dict(zip(objective.part_names, (sums / counts.clamp_min(1)).tolist(), strict=True))}

    return validate
