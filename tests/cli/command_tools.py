"""What the tests of commands share: tiny settings, the result of a command, pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TINY = [
    *("--device", "cpu"),
    *("--stages", "8,16"),
    *("--batch-size", "4"),
    *("--set", "backbone.options.depth=1"),
    *("--set", "backbone.options.width=32"),
    *("--set", "backbone.options.heads=2"),
    *("--set", "flow.statistics_images=16"),
    *("--set", "logging.tensorboard=false"),
    *("--set", "logging.log_every=2"),
    *("--set", "logging.validation_every=0"),
]


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Dfm = Callable[..., Result]
"""The command: arguments in, and the exit code that is expected (None: any); its result out."""

Rejected = Callable[..., str]
"""The same for a command that must fail: the message of its error, on one line."""


def write_picture(path: Path, seed: int, height: int = 24, width: int = 20) -> None:
    """Write noise that depends on `seed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Pixels of a picture, (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
