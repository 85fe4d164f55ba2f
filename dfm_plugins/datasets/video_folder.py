"""Clips from a folder of the user's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dfm_core.clips import clip_endings, read_clip
from dfm_core.errors import DataError, UsageError
from dfm_core.images import image_endings, read_image
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample, Section
from dfm_core.randomness import derive_seed
from dfm_plugins.datasets.augmentation import augmentation, split_of
from dfm_plugins.datasets.specs import VideoFolderOptions
from dfm_plugins.datasets.tree import (
    check_folder,
    class_folder,
    class_folders,
    ending_of,
    files_below,
    listed_endings,
)

_SEED_RANGE = 2**63
_MIDDLE = 0.5


class VideoFolder(Dataset):
    """The clips below a folder in the order of their names, then its images where the option `stills` asks for them.

    Training takes another part of a file in every epoch, validation the middle. Raises DataError where the folder is
    missing, holds no clips, or holds them both beside and in sub-folders.
    """

    options: VideoFolderOptions

    def __init__(self, options: VideoFolderOptions, facts: DatasetFacts) -> None:
        super().__init__(options, facts)
        if len(facts.size) != 3 or min(facts.size) < 1:
            raise UsageError(
                f"data set video_folder: expected a size frames × height × width, got {facts.size}; "
                "write stages as 8x16x16,8x32x32, or give --frames 8"
            )
        self._root = Path(options.path).expanduser()
        clips, stills = find_clips(self._root, options.stills)
        classes = class_folders(self._root, [*clips, *stills], "clips") if options.labels else ()
        self._labels = {name: label for label, name in enumerate(classes)}
        kept = [[name for name in names if self._is_kept(name)] for names in (clips, stills)]
        self._clips, self._stills = map(len, kept)
        self._names = [*kept[0], *kept[1]]
        if facts.split == "train" and not self._clips:
            raise DataError(
                f"all {len(clips)} clips of {self._root} fell into the validation split; expected some for training: "
                f"lower dataset.options.validation_fraction ({options.validation_fraction:g}) or add clips"
            )

    def _is_kept(self, name: str) -> bool:
        return split_of(self.facts.seed, name, self.options.validation_fraction) == self.facts.split

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the sub-folders that hold clips, sorted; empty for a flat folder."""
        return tuple(self._labels)

    def __len__(self) -> int:
        return len(self._names)

    def sections(self) -> tuple[Section, ...] | None:
        """Clips, and images as clips of one frame; None without images."""
        if not self.options.stills:
            return None
        _, height, width = self.facts.size
        return Section(self._clips, self.facts.size), Section(self._stills, (1, height, width))

    def files(self, indices: Sequence[int]) -> list[Path]:
        """The clips, some of them folders of frames, and images."""
        return [self._root / self._names[index] for index in indices]

    def load(self, index: int, epoch: int) -> Sample:
        """Read a part of one clip, (3, T, H, W) in [-1, 1], or one image, (3, 1, H, W); both cover facts.size."""
        name = self._names[index]
        frames, height, width = self.facts.size
        position, flipped = augmentation(self.facts, self.options, index, epoch)
        if index < self._clips:
            start, rate = self._start(index, epoch), self.options.frame_rate
            clip = read_clip(
                self._root / name, frames, (height, width), start=start, frame_rate=rate, position=position
            )
        else:
            clip = read_image(self._root / name, (height, width), position).unsqueeze(1)
        sample: Sample = {"video": clip.flip(-1) if flipped else clip}
        if self._labels:
            sample["label"] = self._labels[class_folder(name)]
        return sample

    def _start(self, index: int, epoch: int) -> float:
        """Where the clip lies in its file, in [0, 1)."""
        if self.facts.split != "train":
            return _MIDDLE
        return derive_seed(self.facts.seed, "clip", epoch, index) / _SEED_RANGE


def find_clips(root: Path, stills: bool) -> tuple[list[str], list[str]]:
    """Return the clips and the images below `root`, hidden ones aside, as sorted relative names with forward slashes.

    stills: whether images are samples. If not, a folder that holds images, and neither clips nor folders, is a clip.
    """
    expected = (
        f"expected a folder of clips ({root}/CLASS/*.mp4, or {root}/*.mp4 without labels; also WebM, GIF, and folders "
        "of frames)"
    )
    check_folder(root, expected)
    files = files_below(root)
    clips = [name for name in files if ending_of(name) in clip_endings()]
    images = [name for name in files if ending_of(name) in image_endings() - clip_endings()]
    if not stills:
        clips += frame_folders(clips, images)
    if not clips:
        advice = "; images alone are read by --dataset folder" if images else ""
        raise DataError(f"no clips in {root}; {expected}; found {listed_endings(files)}{advice}")
    return sorted(clips), sorted(images) if stills else []


def frame_folders(clips: list[str], images: list[str]) -> list[str]:
    """Return the folders that hold images and neither clips nor folders of such."""
    holding: dict[str, set[str]] = defaultdict(set)
    for name in [*clips, *images]:
        folder, _, file = name.rpartition("/")
        holding[folder].add(ending_of(file))
        while folder:
            folder, _, _ = folder.rpartition("/")
            holding[folder].add("a folder")
    return [folder for folder, found in holding.items() if folder and found <= image_endings() - clip_endings()]
