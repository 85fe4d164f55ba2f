"""Where a training image is cropped and whether it is mirrored: the same for every data set of images."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Literal, Protocol

from torch import Tensor

from dfm_core.images import read_image
from dfm_core.interfaces.dataset import DatasetFacts, Split
from dfm_core.randomness import derive_seed

_CENTRE = (0.5, 0.5)
_SEED_RANGE = 2**63


class Augmented(Protocol):
    """Options that say how training images are augmented."""

    @property
    def crop(self) -> Literal["center", "random"]:
        """Part that is kept where the aspect ratio differs."""

    @property
    def flip(self) -> bool:
        """Mirror half of the training images left to right."""


def load_image(
    source: str | Path | IO[bytes],
    facts: DatasetFacts,
    options: Augmented,
    index: int,
    epoch: int,
    name: str | None = None,
) -> Tensor:
    """Read one image, covering facts.size, augmented: (3, H, W) in [-1, 1].

    source: a path, or an open file that `name` names. Raises UnreadableSampleError naming it.
    """
    position, flipped = augmentation(facts, options, index, epoch)
    image = read_image(source, facts.size, position, name)
    return image.flip(-1) if flipped else image


def augmentation(facts: DatasetFacts, options: Augmented, index: int, epoch: int) -> tuple[tuple[float, float], bool]:
    """Return where the crop lies, (down, right) in [0, 1], and whether to mirror; drawn from (seed, epoch, index).

    Validation images are neither moved nor mirrored.
    """
    if facts.split != "train":
        return _CENTRE, False
    down, right, mirror = (
        derive_seed(facts.seed, "augmentation", what, epoch, index) / _SEED_RANGE for what in ("down", "right", "flip")
    )
    return (down, right) if options.crop == "random" else _CENTRE, options.flip and mirror < 0.5


def split_of(seed: int, name: str, validation_fraction: float) -> Split:
    """Decide by the name alone, so that adding samples moves none from one split to the other."""
    if not validation_fraction:
        return "train"
    position = derive_seed(seed, "validation split", name) / _SEED_RANGE
    return "validation" if position < validation_fraction else "train"
