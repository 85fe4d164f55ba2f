"""Folders of clips: classes, splits, parts drawn anew in every epoch, damaged files, and images among clips."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from clip_files import numbered, numbers_of, write_video
from PIL import Image
from torch import Tensor

from dfm_core.errors import DataError, UnreadableSampleError, UsageError
from dfm_core.images import read_image
from dfm_core.interfaces.dataset import DatasetFacts, Section
from dfm_core.training.data import BatchStream
from dfm_plugins.datasets.folder import find_images
from dfm_plugins.datasets.specs import VideoFolderOptions
from dfm_plugins.datasets.video_folder import VideoFolder, find_clips

pytest.importorskip("av")


def clips(
    path: Path, size: tuple[int, ...] = (4, 32, 80), split: str = "train", seed: int = 0, **options: object
) -> VideoFolder:
    facts = DatasetFacts(size, split, seed)  # type: ignore[arg-type]
    return VideoFolder(VideoFolderOptions(path=str(path), **options), facts)  # type: ignore[arg-type]


def clip_of(dataset: VideoFolder, index: int, epoch: int = 0) -> Tensor:
    clip = dataset.load(index, epoch)["video"]
    assert isinstance(clip, Tensor)
    return clip


def image(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbered(number)).save(path)
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes: files, a GIF and a folder of frames; and what is no clip."""
    write_video(tmp_path / "zebra" / "deep" / "b.MP4", 6, first=100)
    write_video(tmp_path / "ant" / "a.webm", 6, first=200, codec="libvpx")
    for number in range(5):
        image(tmp_path / "ant" / "walk" / f"{number}.png", number)
    pictures = [Image.fromarray(numbered(300 + number)) for number in range(5)]
    pictures[0].save(tmp_path / "zebra" / "c.gif", save_all=True, append_images=pictures[1:])
    image(tmp_path / "ant" / "a.jpg")  # beside a clip: its thumbnail, say
    write_video(tmp_path / ".hidden" / "x.mp4", 6)
    (tmp_path / "ant" / "notes.txt").touch()
    return tmp_path


def test_files_gifs_and_folders_of_frames(classes: Path) -> None:
    assert find_clips(classes, False) == (["ant/a.webm", "ant/walk", "zebra/c.gif", "zebra/deep/b.MP4"], [])
    dataset = clips(classes, (5, 32, 80))
    assert dataset.classes == ("ant", "zebra")
    assert [dataset.load(index, 0)["label"] for index in range(4)] == [0, 0, 1, 1]
    assert [numbers_of(clip_of(dataset, index))[0] // 100 for index in range(4)] == [2, 0, 3, 1]
    assert clips(classes, labels=False).classes == ()
    assert set(clips(classes, labels=False).load(0, 0)) == {"video"}
    assert dataset.sections() is None


def test_what_is_wrong_with_a_folder(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match=r"no folder .*absent; expected a folder of clips .*--data"):
        clips(empty / "absent")
    with pytest.raises(DataError, match=r"no clips in .*; also WebM, GIF, and folders of frames\); found no files"):
        clips(empty)
    image(empty / "a.png")
    with pytest.raises(DataError, match=r"found 1 ending in \.png; images alone are read by --dataset folder"):
        clips(empty)
    write_video(classes / "loose.mp4", 6)
    with pytest.raises(
        DataError, match=r"holds clips both in sub-folders \(ant, zebra\) and beside them \(loose\.mp4\)"
    ):
        clips(classes)
    with pytest.raises(UsageError, match=r"expected a size frames × height × width, got \(32, 80\).*--frames 8"):
        clips(classes, (32, 80))
    write_video(empty / "b" / "b.mp4", 2)
    (empty / "a.png").unlink()
    with pytest.raises(DataError, match=r"no images in .*; clips are read by --dataset video_folder"):
        find_images(empty)


def test_every_epoch_takes_another_part_and_validation_the_middle(tmp_path: Path) -> None:
    for index in range(12):
        write_video(tmp_path / f"{index:02}.mp4", 40, first=50 * index)
    train = clips(tmp_path, validation_fraction=0.4)
    validation = clips(tmp_path, split="validation", validation_fraction=0.4)
    assert len(train) + len(validation) == 12
    firsts = Counter(numbers_of(clip_of(train, 0, epoch))[0] % 50 for epoch in range(60))
    assert len(firsts) > 20
    assert min(firsts) < 4
    assert 32 < max(firsts) <= 36
    assert torch.equal(clip_of(train, 0, 7), clip_of(pickle.loads(pickle.dumps(train)), 0, 7))
    other = clips(tmp_path, seed=1)
    assert [numbers_of(clip_of(other, 0, e)) for e in range(4)] != [numbers_of(clip_of(train, 0, e)) for e in range(4)]
    for epoch in (0, 5):
        assert numbers_of(clip_of(validation, 0, epoch))[0] % 50 == 18


def test_frame_rate_crop_and_mirror(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 40)
    slow = clips(tmp_path, frame_rate=8)
    assert (torch.tensor(numbers_of(clip_of(slow, 0))).diff() == 3).all()
    size = (2, 32, 32)
    moved = [clip_of(clips(tmp_path, size, crop="random"), 0, epoch) for epoch in range(20)]
    assert len({round(float(clip[1, 0].mean()), 2) for clip in moved}) > 5
    plain, dataset = clips(tmp_path, size), clips(tmp_path, size, flip=True)
    pairs = [(clip_of(plain, 0, epoch), clip_of(dataset, 0, epoch)) for epoch in range(30)]
    flipped = [torch.equal(one.flip(-1), other) for one, other in pairs]
    assert all(one or torch.equal(*pair) for one, pair in zip(flipped, pairs, strict=True))
    assert 5 < sum(flipped) < 25, "all frames or none"


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "text": lambda content: b"no video at all",
    "header": lambda content: bytes(64) + content[64:],
}


def test_damaged_and_short_files_are_skipped_counted_and_named(tmp_path: Path) -> None:
    for index in range(40):
        write_video(tmp_path / f"{index:02}.mp4", 5 if index != 23 else 3, first=10 * index, codec="mpeg4")
    for index, damage in zip((4, 17), ("cut", "header"), strict=True):
        path = tmp_path / f"{index:02}.mp4"
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    dataset = clips(tmp_path, (5, 32, 80))
    with pytest.raises(
        UnreadableSampleError, match=r"cannot read clip .*23\.mp4: it has 3 frames, expected at least 5"
    ):
        dataset.load(23, 0)
    messages: list[str] = []
    stream = BatchStream(dataset, 40, seed=0, warn=messages.append)
    batch = next(stream.batches())
    assert batch["video"].shape == (40, 3, 5, 32, 80)
    assert len(messages) == len(stream.unreadable) == 3
    assert {message.split(".mp4")[0][-2:] for message in messages} == {"04", "17", "23"}
    read = Counter(numbers_of(clip)[0] // 10 for clip in batch["video"])
    assert read == Counter({index: 1 + (index in (5, 18, 24)) for index in range(40) if index not in (4, 17, 23)})


def test_short_files_do_not_stop_a_training(tmp_path: Path) -> None:
    for index in range(12):
        write_video(tmp_path / f"{index:02}.mp4", 5 if index < 4 else 3, codec="mpeg4")
    dataset = clips(tmp_path, (5, 32, 80))
    messages: list[str] = []
    assert len(next(BatchStream(dataset, 12, seed=0, warn=messages.append).batches())["video"]) == 12
    assert len(messages) == 8
    with pytest.raises(DataError, match="12 of the 12 samples .* too short, .* ask for fewer frames"):
        next(BatchStream(clips(tmp_path, (6, 32, 80)), 4, seed=0, warn=lambda _: None).batches())


def joint(tmp_path: Path, number_of_clips: int = 6, number_of_images: int = 10, **options: object) -> VideoFolder:
    for index in range(number_of_clips):
        write_video(tmp_path / "a" / f"{index}.mp4", 6, first=100, codec="mpeg4")
    for index in range(number_of_images):
        image(tmp_path / "b" / f"{index}.png", index)
    return clips(tmp_path, stills=True, **options)


def test_images_among_clips_are_clips_of_one_frame(tmp_path: Path) -> None:
    dataset = joint(tmp_path)
    assert dataset.sections() == (Section(6, (4, 32, 80)), Section(10, (1, 32, 80)))
    assert (len(dataset), dataset.classes) == (16, ("a", "b"))
    sample = dataset.load(6, 0)
    assert sample["label"] == 1
    assert torch.equal(sample["video"], read_image(tmp_path / "b" / "0.png").unsqueeze(1))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no clips in"):
        clips(tmp_path / "b", stills=True)


def test_a_batch_is_of_clips_or_of_images(tmp_path: Path) -> None:
    dataset = joint(tmp_path)
    (tmp_path / "a" / "5.mp4").write_bytes(b"")
    stream = BatchStream(dataset, 4, seed=0, warn=lambda _: None)
    shapes = [tuple(batch["video"].shape) for batch in stream.batches(0, 10)]
    assert Counter(shapes) == {(4, 3, 4, 32, 80): 4, (4, 3, 1, 32, 80): 6}, "2 and 3 batches a round"
    labels = [batch["label"].unique().tolist() for batch in stream.batches(0, 10)]
    assert labels == [[0] if shape[2] == 4 else [1] for shape in shapes], "a broken clip is replaced by a clip"


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path) -> None:
    dataset = joint(tmp_path, crop="random", flip=True)
    alone, shared = (list(BatchStream(dataset, 4, seed=3, workers=n).batches(2, 12)) for n in (0, 2))
    assert all(torch.equal(one["video"], other["video"]) for one, other in zip(alone, shared, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--frames", "24"], ["--frames", "8", "--epochs", "8"]])
def test_of_a_thousand_clips_none_is_lost_and_every_damaged_one_is_named(options: list[str]) -> None:
    """Damage outside of the eight frames that an epoch reads comes to light in a later one."""
    script = [sys.executable, str(Path(__file__).parents[3] / "benchmarks" / "video_decoding.py"), *options]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("all "))
    assert row.split()[1:] == ["950", "950", "0", "0", "50", "50", "0", "0", "0"], done.stdout
