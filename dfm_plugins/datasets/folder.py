"""Images from a folder of the user's."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from dfm_core.errors import DataError, UsageError
from dfm_core.images import image_endings
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from dfm_plugins.datasets.augmentation import load_image, split_of
from dfm_plugins.datasets.specs import FolderOptions


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
        self._labels = {name: label for label, name in enumerate(_classes(self._root, found) if options.labels else ())}
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

    def load(self, index: int, epoch: int) -> Sample:
        """Read one image, covering facts.size; (3, H, W) in [-1, 1]. Only training images are augmented."""
        name = self._names[index]
        sample: Sample = {"image": load_image(self._root / name, self.facts, self.options, index, epoch)}
        if self._labels:
            sample["label"] = self._labels[_top(name)]
        return sample


def find_images(root: Path) -> list[str]:
    """Return the images below `root`, hidden ones aside, as sorted relative names with forward slashes."""
    expected = f"expected a folder of images ({root}/CLASS/*.jpg, or {root}/*.jpg without labels)"
    if not root.exists():
        raise DataError(f"no folder {root.absolute()}; {expected}; give its path with --data")
    if not root.is_dir():
        raise DataError(f"{root} is a file; {expected}")
    files = [name for name in _files_below(root) if not name.rpartition("/")[2].startswith(".")]
    images = [name for name in files if os.path.splitext(name)[1].lower() in image_endings()]
    if not images:
        others = Counter(os.path.splitext(name)[1].lower() or "none" for name in files)
        listed = ", ".join(f"{count} ending in {ending}" for ending, count in others.most_common(5))
        advice = "; tar shards are read by --dataset webdataset" if ".tar" in others else ""
        raise DataError(f"no images in {root}; {expected}; found {listed or 'no files at all'}{advice}")
    return sorted(images)


def _files_below(root: Path) -> list[str]:
    def refuse(error: OSError) -> None:
        raise DataError(f"cannot list {error.filename}: {error.strerror}; check its permissions") from error

    files: list[str] = []
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in visited:  # a link in a circle
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(folder).relative_to(root)
        files += [(relative / name).as_posix() for name in names]
    return files


def _classes(root: Path, names: list[str]) -> tuple[str, ...]:
    """Return the sub-folders at the top, or () where all images lie at the top. names: relative."""
    tops = {_top(name) for name in names}
    if "" in tops and len(tops) > 1:
        beside = next(name for name in names if not _top(name))
        named = ", ".join(sorted(tops - {""})[:3])
        raise DataError(
            f"{root} holds images both in sub-folders ({named}) and beside them ({beside}); "
            "expected one or the other: move them, or set dataset.options.labels=false to use all without labels"
        )
    return tuple(sorted(tops - {""}))


def _top(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""
