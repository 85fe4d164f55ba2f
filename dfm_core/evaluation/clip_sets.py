"""Folders of clips that are measured: video files, GIFs and folders of frames, as a data set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from dfm_core.clip_sources import VIDEO_ENDINGS
from dfm_core.clips import clip_endings, read_clip
from dfm_core.errors import DataError
from dfm_core.evaluation.image_sets import FolderImages, FolderOptions, files_below, folder_images
from dfm_core.images import image_endings
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.media import measured_medium, measured_size
from dfm_core.stages import Size

_MIDDLE = 0.5


class FolderClips(FolderImages):
    """The clips below a folder: as many frames as facts.size says, from the middle of each. See `FolderImages`."""

    medium = "video"

    def find(self, folder: Path) -> list[str]:
        """Relative names of files and of folders of frames, sorted. Raises DataError without any."""
        return clip_files(folder)

    def read(self, path: Path, size: Size | None) -> Tensor:
        """Read a clip as (3, T, H, W) in [-1, 1]. Raises UnreadableSampleError for one that is too short."""
        rate = self.options.frame_rate
        return read_clip(path, self.facts.size[0], size and size[1:], start=_MIDDLE, frame_rate=rate)


def folder_clips(folder: Path, size: Size, exact: bool = False, frame_rate: float | None = None) -> FolderClips:
    """The clips of a folder at a size, frames × height × width. exact: those of another size are errors."""
    options = FolderOptions(path=str(folder.absolute()), exact=exact, frame_rate=frame_rate)
    return FolderClips(options, DatasetFacts(size, "train", 0))


def folder_set(folder: Path, size: Size, exact: bool = False, frame_rate: float | None = None) -> FolderImages:
    """The images or clips of a folder, as the size says; see `folder_images` and `folder_clips`."""
    if measured_medium(size) == "image":
        return folder_images(folder, measured_size(size), exact)
    return folder_clips(folder, size, exact, frame_rate)


def folder_clip_size(folder: Path, frames: int) -> Size:
    """`frames`, and height and width of the first clip below a folder."""
    clip = read_clip(folder / clip_files(folder)[0], 1)
    return frames, *clip.shape[2:]


def clip_files(folder: Path) -> list[str]:
    """Clips below a folder, as sorted relative names with forward slashes. Raises DataError without any.

    A folder that holds images, and neither clips nor folders, is one. Of a GIF and a video file of one name, which is
    how `dfm sample` writes a clip twice, the video file counts.
    """
    if not folder.is_dir():
        raise DataError(f"expected a folder of clips, {folder} is none")
    files = files_below(folder)
    videos = {path.with_suffix("") for path in files if path.suffix.lower() in VIDEO_ENDINGS}
    clips = [
        path
        for path in files
        if path.suffix.lower() in VIDEO_ENDINGS
        or (path.suffix.lower() == ".gif" and path.with_suffix("") not in videos)
    ]
    names = sorted(path.as_posix() for path in [*clips, *_frame_folders(files)])
    if not names:
        raise DataError(f"no clips in {folder}; expected MP4, WebM, GIF or folders of frames, there or in sub-folders")
    return names


def _frame_folders(files: Iterable[Path]) -> set[Path]:
    """Folders that hold images, and neither clips nor folders."""
    files = [path for path in files if path.parent != Path()]
    images = {path.parent for path in files if path.suffix.lower() in image_endings() - clip_endings()}
    clips = {path.parent for path in files if path.suffix.lower() in clip_endings()}
    holding = {above for path in files for above in path.parent.parents}
    return images - clips - holding
