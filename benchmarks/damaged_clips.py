"""A folder of generated clips, MP4, WebM, GIF and folders of frames by turns, some of them damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfm_core.clips import write_gif, write_mp4
from dfm_core.images import save_png, to_pixels
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_plugins.datasets.moving_shapes import MovingShapes
from dfm_plugins.datasets.specs import MovingShapesOptions

FRAMES, SIZE = 24, (48, 64)
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 3],
    "text": lambda content: b"this is no clip\n" * 40,
    "header lost": lambda content: bytes(64) + content[64:],
    "frames overwritten": lambda content: (
        content[: len(content) // 3] + bytes(len(content) // 3) + content[2 * len(content) // 3 :]
    ),
}


def write_webm(path: Path, clip: Tensor) -> None:
    """Write a clip as WebM, a key frame every eighth."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=8)
        stream.height, stream.width = clip.shape[2:]
        stream.pix_fmt, stream.gop_size = "yuv420p", 8
        for frame in clip.unbind(1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(to_pixels(frame), format="rgb24")))
        container.mux(stream.encode(None))


def write_frames(path: Path, clip: Tensor) -> None:
    """Write a clip as a folder of PNG files."""
    for index, frame in enumerate(clip.unbind(1)):
        save_png(path / f"{index}.png", to_pixels(frame))


WRITERS: dict[str, tuple[str, Callable[[Path, Tensor], None]]] = {
    "MP4": ("clip.mp4", write_mp4),
    "WebM": ("clip.webm", write_webm),
    "GIF": ("clip.gif", write_gif),
    "frames": ("clip", write_frames),
}


def format_of(index: int) -> str:
    """Format of clip `index`, a key of WRITERS."""
    return tuple(WRITERS)[index % len(WRITERS)]


def path_of(root: Path, index: int) -> Path:
    """Where clip `index` lies below `root`: in a folder of its own, so that its label is its index."""
    return root / f"{index:05}" / WRITERS[format_of(index)][0]


def draw(index: int) -> Tensor:
    """Draw clip `index`, (3, FRAMES, *SIZE) in [-1, 1]."""
    source = MovingShapes(MovingShapesOptions(), DatasetFacts((FRAMES, *SIZE), "train", 0))
    return torch.as_tensor(source.load(index, 0)["video"])


def write_clips(root: Path, indices: Iterable[int]) -> None:
    """Write clips below `root`."""
    for index in indices:
        path = path_of(root, index)
        path.parent.mkdir(parents=True)
        WRITERS[format_of(index)][1](path, draw(index))


def damage_clips(root: Path, number: int, share: float) -> list[int]:
    """Damage that share of `number` clips below `root`, the kinds by turns; of a folder one frame. Return them."""
    order = np.random.default_rng(0).permutation(number)
    chosen = sorted(map(int, order[: round(number * share)]))
    kinds = list(DAMAGES.values())
    for place, index in enumerate(chosen):
        path = path_of(root, index)
        file = path / f"{FRAMES // 2}.png" if path.is_dir() else path
        file.write_bytes(kinds[place % len(kinds)](file.read_bytes()))
    return chosen
