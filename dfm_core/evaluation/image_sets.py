"""Sets of images that are measured: folders, as data sets; and any data set, also of clips, in batches of 8 bits."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from dfm_core.encoding import Samples, readable, split_range
from dfm_core.errors import DataError
from dfm_core.files import listing_digest
from dfm_core.images import image_endings, read_image, to_uint8
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from dfm_core.interfaces.metric import ImageBatch
from dfm_core.media import PLURAL, measured_medium, measured_size
from dfm_core.randomness import derive_generator
from dfm_core.stages import Size, format_size
from dfm_core.training.data import UnreadableSamples, load_in_order

BLOCK, CLIP_BLOCK = 64, 8
"""Images or clips that are described at once, always the same ones: so neither processes nor interruptions change a
bit."""

Shown = Callable[[Tensor], Tensor]
"""Images or clips (B, C, *spatial) in [-1, 1] as they are measured, perhaps of another size."""

_BESIDE = re.compile(r"grid(_stage_\d+)?|\d{4,}_stage_\d+|animation")
"""Stems of the files that `dfm sample` writes beside its images."""


class FolderOptions(BaseModel):
    """Options of `FolderImages`.

    exact: images of another size are errors; else they are scaled and cropped. frame_rate: of clips, in frames a
    second; None takes every frame.
    """

    path: str
    exact: bool = False
    frame_rate: float | None = None


class FolderImages(Dataset):
    """The images below a folder, sorted by name; sub-folders are classes where all images lie in some.

    Grids and previews of `dfm sample` are left out. Raises DataError where there are no images.
    """

    options: FolderOptions
    medium = "image"

    def __init__(self, options: FolderOptions, facts: DatasetFacts) -> None:
        super().__init__(options, facts)
        self.names = self.find(Path(options.path))
        tops = {name.partition("/")[0] if "/" in name else "" for name in self.names}
        self._classes = () if "" in tops else tuple(sorted(tops))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the sub-folders, or none."""
        return self._classes

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int, epoch: int) -> Sample:
        """Read an image as RGB. Raises DataError for one of another size where sizes must agree."""
        name = self.names[index]
        path = Path(self.options.path, name)
        image = self.read(path, None if self.options.exact else self.facts.size)
        if tuple(image.shape[1:]) != tuple(self.facts.size):
            raise DataError(
                f"{path} has {format_size(image.shape[1:])} pixels, the first {self.medium} "
                f"{format_size(self.facts.size)}; samples of one evaluation have one size"
            )
        label = {"label": self._classes.index(name.partition("/")[0])} if self._classes else {}
        return {self.medium: image, **label}

    def find(self, folder: Path) -> list[str]:
        """Relative names of what is measured, sorted. Raises DataError without any."""
        return image_files(folder)

    def read(self, path: Path, size: Size | None) -> Tensor:
        """Read a file as (3, *size) in [-1, 1]; None: as large as it is."""
        return read_image(path, size)

    def files(self, indices: Sequence[int]) -> list[Path]:
        """The images."""
        return [Path(self.options.path, self.names[index]) for index in indices]

    @cached_property
    def listing(self) -> str:
        """Digest of names, sizes and times of the files."""
        return listing_digest(self.files(range(len(self))), Path(self.options.path))


def image_files(folder: Path) -> list[str]:
    """Images below a folder, as sorted relative names with forward slashes. Raises DataError without any."""
    if not folder.is_dir():
        raise DataError(f"expected a folder of images, {folder} is none")
    names = [path.as_posix() for path in files_below(folder) if path.suffix.lower() in image_endings()]
    if not names:
        raise DataError(f"no images in {folder}; expected some there or in its sub-folders")
    return sorted(names)


def files_below(folder: Path) -> list[Path]:
    """Relative paths of the files below a folder, without hidden ones and those that `dfm sample` writes beside."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return [
        path
        for path in paths
        if not _BESIDE.fullmatch(path.stem) and not any(part.startswith(".") for part in path.parts)
    ]


def folder_size(folder: Path) -> Size:
    """Height and width of the first image below a folder."""
    name = image_files(folder)[0]
    return tuple(read_image(folder / name).shape[1:])


def folder_images(folder: Path, size: Size, exact: bool = False) -> FolderImages:
    """The images of a folder at a size."""
    return FolderImages(FolderOptions(path=str(folder.absolute()), exact=exact), DatasetFacts(size, "train", 0))


def rounded(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 8 bits would hold them: what is written to a file is what is measured."""
    return to_uint8(images).float().div_(127.5).sub_(1)


def image_batches(
    dataset: Dataset,
    indices: Sequence[int],
    *,
    device: torch.device,
    blocks: Sequence[range] | None = None,
    labelled: bool = True,
    workers: int = 0,
    warn: Callable[[str], None] | None = None,
    shown: Shown | None = None,
) -> Generator[ImageBatch]:
    """Load images in blocks of their places in `indices`; unreadable ones are left out, counted and named.

    blocks: ranges of places; None: all of them. labelled: whether labels are wanted, where there are any. shown: what
    is made of the images before they are measured; None: nothing. Raises DataError for data without images, and where
    more than a tenth is unreadable.
    """
    chosen = all_blocks(len(indices), dataset.facts.size) if blocks is None else blocks
    unreadable = UnreadableSamples(len(indices), warn)
    elements = [[indices[place] for place in block] for block in chosen]
    with closing(load_in_order(Samples(dataset), elements, list, workers)) as stream:
        for block, loaded in zip(chosen, stream, strict=True):
            places = dict(zip((index for index, _ in loaded), block, strict=True))
            samples = readable(loaded, unreadable)
            if samples:
                yield _batch(samples, places, measured_size(dataset.facts.size), device, labelled, shown)


def all_blocks(count: int, size: Size) -> list[range]:
    """Places 0…count − 1 in blocks. size: of each image or clip; of the latter a block has fewer, as they are large."""
    return split_range(range(count), BLOCK if measured_medium(size) == "image" else CLIP_BLOCK)


def picture(sample: Sample, index: int, size: Size) -> Tensor:
    """The image (C, H, W) or clip (C, T, H, W) of a sample that is measured at `size`. Raises DataError without one."""
    for name in ("image", "video"):
        if name in sample:
            found = torch.as_tensor(sample[name])
            return found.squeeze(1) if found.ndim == 4 and len(size) == 2 else found
    raise DataError(
        f"expected images or clips to measure, sample {index} holds {', '.join(sorted(sample))}; give a folder of them "
        "with --reference"
    )


def _batch(
    samples: dict[int, Sample],
    places: dict[int, int],
    size: Size,
    device: torch.device,
    labelled: bool,
    shown: Shown | None,
) -> ImageBatch:
    images = torch.stack([picture(sample, index, size) for index, sample in samples.items()])
    images = images if shown is None else shown(images.to(device)).cpu()
    values: list[Any] = [sample.get("label") for sample in samples.values()]
    known = labelled and all(value is not None for value in values)
    labels = torch.tensor([int(value) for value in values], device=device) if known else None
    return ImageBatch(rounded(images).to(device), labels, tuple(places[index] for index in samples))


class Some(Dataset):
    """`count` images or clips of a folder, None: all; in an order that depends on their number only.

    Not in that of their names: metrics take the first so many, and class would follow class.
    """

    def __init__(self, whole: FolderImages, count: int | None) -> None:
        super().__init__(whole.options, whole.facts)
        if count is not None and count > len(whole):
            noun = PLURAL[whole.medium]
            raise DataError(f"expected at least {count} {noun} in {whole.options.path} (--num), got {len(whole)}")
        self.whole = whole
        self._places = torch.randperm(len(whole), generator=derive_generator(0, "samples"))[:count].tolist()

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the folder."""
        return self.whole.classes

    def __len__(self) -> int:
        return len(self._places)

    def load(self, index: int, epoch: int) -> Sample:
        """An image of the folder."""
        return self.whole.load(self._places[index], epoch)
