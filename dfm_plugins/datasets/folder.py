"""Images from a folder of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dfm_core.clips import clip_endings
from dfm_core.errors import DataError, UsageError
from dfm_core.images import image_endings
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from dfm_plugins.datasets.augmentation import load_image, split_of
from dfm_plugins.datasets.specs import FolderOptions
from dfm_plugins.datasets.tree import (
    check_folder,
    class_folder,
    class_folders,
    ending_of,
    files_below,
    listed_endings,
)


class Folder(Dataset):
    """The images below a folder in the order of their names; sub-folders of the top are classes.

    Raises DataError where the folder is missing, holds no images, or holds them both beside and in sub-folders.
    """

    options: FolderOptions

    def __init__(self, options: FolderOptions, facts: DatasetFacts) -> None:
        super().__init__(options, facts)
        if len(facts.size) != 2 or min(facts.size) < 1:
            raise UsageError(f"data set folder: expected a size height × width, got {facts.size}")
        self._root = Path(options.path).expanduser()
        found = find_images(self._root)
        classes = class_folders(self._root, found, "images") if options.labels else ()
        self._labels = {name: label for label, name in enumerate(classes)}
        fraction = options.validation_fraction
        self._names = [name for name in found if split_of(facts.seed, name, fraction) == facts.split]
        if facts.split == "train" and not self._names:
            raise DataError(
                f"all {len(found)} images of {self._root} fell into the validation split; expected some for training: "
                f"lower dataset.options.validation_fraction ({fraction:g}) or add images"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the sub-folders that hold images, sorted; empty for a flat folder."""
        return tuple(self._labels)

    def __len__(self) -> int:
        return len(self._names)

    def files(self, indices: Sequence[int]) -> list[Path]:
        """The images."""
        return [self._root / self._names[index] for index in indices]

    def load(self, index: int, epoch: int) -> Sample:
        """Read one image, covering facts.size; (3, H, W) in [-1, 1]. Only training images are augmented."""
        name = self._names[index]
        sample: Sample = {"image": load_image(self._root / name, self.facts, self.options, index, epoch)}
        if self._labels:
            sample["label"] = self._labels[class_folder(name)]
        return sample


def find_images(root: Path) -> list[str]:
    """Return the images below `root`, hidden ones aside, as sorted relative names with forward slashes."""
    expected = f"expected a folder of images ({root}/CLASS/*.jpg, or {root}/*.jpg without labels)"
    check_folder(root, expected)
    files = files_below(root)
    images = [name for name in files if ending_of(name) in image_endings()]
    if not images:
        endings = {ending_of(name) for name in files}
        advice = "; tar shards are read by --dataset webdataset" if ".tar" in endings else ""
        advice += "; clips are read by --dataset video_folder" if endings & clip_endings() else ""
        raise DataError(f"no images in {root}; {expected}; found {listed_endings(files)}{advice}")
    return sorted(images)
