"""A data set to stored latents, which training reads instead of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from dfm_core.assembly import Assembler
from dfm_core.errors import DataError, DFMError, UnreadableSampleError
from dfm_core.interfaces.dataset import Dataset, Sample, Split
from dfm_core.latent_shards import LatentShards, add_latent, count_latents, describe_shards, open_folder, writing_shard
from dfm_core.latent_sizes import latent_sizes
from dfm_core.randomness import derive_generator
from dfm_core.training.data import UnreadableSamples, failure_of, load_in_order
from dfm_core.training.distributed import World, lost_processes_named

Loaded = tuple[int, Sample | DFMError]
"""Index of a sample, and the sample or why it could not be loaded."""


@dataclass(frozen=True)
class EncodingSettings:
    """What is stored: which split, in which type, all a second time mirrored (flip), how many samples a shard."""

    split: Split = "train"
    precision: Literal["float16", "float32"] = "float16"
    flip: bool = False
    shard_size: int = 1000


@dataclass(frozen=True)
class Progress:
    """How far this process is with the shards that it has to write."""

    shards: int
    num_shards: int
    images: int
    num_images: int


class Encoding:
    """The way of one data set into a folder of shards.

    Raises DataError for data that is empty or holds latents already, StageSizeError for stages that the autoencoder
    does not divide.
    """

    def __init__(self, assembler: Assembler, settings: EncodingSettings, device: torch.device) -> None:
        self.settings, self._device, self._config = settings, device, assembler.config
        assembler.check_media(["dataset", "autoencoder"])
        self.dataset = assembler.dataset(settings.split)
        check_images(self.dataset)
        self.autoencoder = assembler.autoencoder(self.dataset.channels, device)
        self.latent_shape = (
            self.autoencoder.channels,
            *latent_sizes(self._config.stages[-1:], self.autoencoder)[-1],
        )

    @property
    def shards(self) -> dict[str, range]:
        """File name of each shard -> the samples that it holds."""
        size, length = self.settings.shard_size, len(self.dataset)
        return {
            f"latents-{number:06d}.tar": range(first, min(first + size, length))
            for number, first in enumerate(range(0, length, size))
        }

    @property
    def request(self) -> dict[str, Any]:
        """All that the shards depend on, as plain data."""
        choices = {kind: self._config.component(kind).model_dump(mode="json") for kind in ("dataset", "autoencoder")}
        facts = {"samples": len(self.dataset), "size": list(self._config.stages[-1]), "seed": self._config.seed}
        return {"key": self.autoencoder.key, **choices, **facts, **asdict(self.settings)}

    def write(
        self, folder: Path, world: World, warn: Callable[[str], None], report: Callable[[Progress], None]
    ) -> LatentShards:
        """Write the shards that `folder` lacks, and `dataset.json` when all are there. All processes must call.

        Every process writes its own ones. warn: told of each unreadable image. report: called after every batch.
        Raises UsageError for a folder with something else in it, DataError where more than a tenth is unreadable,
        LostProcessError when another process has ended.
        """
        with lost_processes_named("while it encoded", "finished shards stay, and the same command goes on"):
            world.once(lambda: open_folder(folder, self.request))
            missing = world.once(lambda: [name for name in self.shards if not (folder / name).exists()])
            own = missing[world.index :: world.size]
            parts = world.gather(self._write_shards(folder, own, warn, report))
            counts = {name: count for part in parts for name, count in part.items()}
            described = world.once(lambda: self._describe(folder, counts).model_dump(mode="json"))
        return LatentShards.model_validate(described)

    def _write_shards(
        self, folder: Path, names: Sequence[str], warn: Callable[[str], None], report: Callable[[Progress], None]
    ) -> dict[str, int]:
        """Write shards; return how many latents each holds."""
        size = self._config.training.batch_size
        batches = {name: split_range(self.shards[name], size) for name in names}
        unreadable = UnreadableSamples(len(self.dataset), warn)
        images, total = 0, sum(len(self.shards[name]) for name in names)
        counts: dict[str, int] = {}
        everything = [[*batch] for part in batches.values() for batch in part]
        with closing(load_in_order(Samples(self.dataset), everything, list, self._config.workers)) as stream:
            for number, (name, part) in enumerate(batches.items()):
                counts[name] = 0
                with writing_shard(folder / name) as tar:
                    for loaded in islice(stream, len(part)):
                        for key, latent, label in self._encode(readable(loaded, unreadable)):
                            add_latent(tar, key, latent, label)
                            counts[name] += 1
                        images += len(loaded)
                        report(Progress(number, len(names), images, total))
                report(Progress(number + 1, len(names), images, total))
        return counts

    def _encode(self, samples: Mapping[int, Sample]) -> Iterator[tuple[str, NDArray[Any], int | None]]:
        """Yield key, latent and label of samples, and of their mirrored copies."""
        if not samples:
            return
        found = [pictures(sample, index, len(self._config.stages[-1])) for index, sample in samples.items()]
        images = torch.stack(found).to(self._device)
        copies = {"": images, "-flip": images.flip(-1)} if self.settings.flip else {"": images}
        latents = {suffix: self._latents(copy, [*samples], suffix) for suffix, copy in copies.items()}
        for place, (index, sample) in enumerate(samples.items()):
            label = sample.get("label")
            for suffix, values in latents.items():
                yield f"{index:08d}{suffix}", values[place], None if label is None else int(label)

    @torch.no_grad()
    def _latents(self, images: Tensor, indices: Sequence[int], copy: str) -> NDArray[Any]:
        """Encode images, in the stored type. Raises DFMError where a number does not fit into it."""
        if self.autoencoder.stochastic:
            generators = [derive_generator(self._config.seed, "latents", index, copy) for index in indices]
            noise = torch.stack([torch.randn(self.latent_shape, generator=generator) for generator in generators])
            latents = self.autoencoder.draw(images, noise.to(self._device))
        else:
            latents = self.autoencoder.encode(images)
        stored = latents.to(getattr(torch, self.settings.precision)).cpu()
        finite = stored.isfinite().flatten(1).all(1).tolist()
        if not all(finite):
            place = finite.index(False)
            raise DFMError(
                f"the latent of sample {indices[place]} does not fit into {self.settings.precision}: its largest "
                f"magnitude is {float(latents[place].abs().max()):g}; use --precision float32, or another precision of "
                "the autoencoder"
            )
        return stored.numpy()

    def _describe(self, folder: Path, counts: Mapping[str, int]) -> LatentShards:
        """Write `dataset.json`. counts: latents of the shards where that is known; the others are looked into."""
        lengths = {name: counts[name] if name in counts else count_latents(folder / name) for name in self.shards}
        description = LatentShards(
            shards=lengths,
            classes=self.dataset.classes,
            channels=self.dataset.channels,
            size=self._config.stages[-1],
            latent_shape=self.latent_shape,
            autoencoder=self.autoencoder.key,
            precision=self.settings.precision,
            unreadable=len(self.dataset) - sum(lengths.values()) // (1 + self.settings.flip),
            request=self.request,
        )
        describe_shards(folder, description)
        return description


def pictures(sample: Sample, index: int, dimensions: int) -> Tensor:
    """The image (C, H, W) or clip (C, T, H, W) of sample `index`.

    dimensions: of a size, 2 for images, 3 for clips, of which an image is one of one frame. Raises DataError for a
    sample with neither, or of other dimensions.
    """
    medium = next((name for name in ("image", "video") if name in sample), None)
    if medium is None:
        raise DataError(f"expected images or clips, sample {index} holds {', '.join(sorted(sample))}")
    found = torch.as_tensor(sample[medium])
    found = found.unsqueeze(1) if dimensions == 3 and found.ndim == 3 else found
    if found.ndim != dimensions + 1:
        raise DataError(f"expected samples of {dimensions + 1} dimensions, sample {index} is {tuple(found.shape)}")
    return found


def check_images(dataset: Dataset) -> None:
    """Raise DataError unless a data set has images or clips to encode."""
    if len(dataset) == 0:
        raise DataError(f"expected at least one sample, the {dataset.facts.split} split of the data set has none")
    if dataset.latents is not None:
        raise DataError("the data set holds latents already; expected images or clips")
    if dataset.sections() is not None:
        raise DataError(
            "the data set holds samples of several sizes (images among clips); expected one: leave the others out"
        )


def split_range(indices: range, size: int) -> list[range]:
    """Parts of a range, each of `size` elements but the last."""
    return [indices[first : first + size] for first in range(0, len(indices), size)]


def readable(loaded: Sequence[Loaded], unreadable: UnreadableSamples) -> dict[int, Sample]:
    """The samples that could be read, by index; the others are noted. Raises the error of any other fault."""
    samples: dict[int, Sample] = {}
    failures = []
    for index, result in loaded:
        if isinstance(result, UnreadableSampleError):
            failures.append(failure_of(index, result))
        elif isinstance(result, DFMError):
            raise result
        else:
            samples[index] = result
    unreadable.add([index for index, _ in loaded], failures)
    return samples


class Samples(TorchDataset[Loaded]):
    """Samples as the first epoch has them; errors are returned, since a worker would bury their message."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Loaded:
        try:
            return index, self.dataset.load(index, 0)
        except DFMError as error:
            return index, error
