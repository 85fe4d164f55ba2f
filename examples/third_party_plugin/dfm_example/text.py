"""Pictures of letters and words."""

from __future__ import annotations

from functools import lru_cache
from random import Random

import torch
from dfm_core.errors import UsageError
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from PIL import Image, ImageDraw, ImageFont

from dfm_example.plugin import TextOptions

Colour = tuple[int, int, int]

BOLD = 0.04
"""Width of the stroke that makes the font's letters bolder, in units of their size."""


class Text(Dataset):
    """One word an image, the words in turn; place, size and the two colours are drawn from (seed, epoch, index).

    Training images are written anew in every epoch, validation images never.
    """

    options: TextOptions

    def __init__(self, options: TextOptions, facts: DatasetFacts) -> None:
        super().__init__(options, facts)
        if len(facts.size) != 2:
            raise UsageError(f"data set example/text: expected a size height × width, got {facts.size}")

    @property
    def classes(self) -> tuple[str, ...]:
        """The words."""
        return self.options.words

    def __len__(self) -> int:
        return self.options.train_images if self.facts.split == "train" else self.options.validation_images

    def load(self, index: int, epoch: int) -> Sample:
        """Write image `index`, (3, H, W) in [-1, 1]."""
        if not 0 <= index < len(self):
            raise IndexError(f"data set example/text: expected an index below {len(self)}, got {index}")
        label = index % len(self.classes)
        epoch = epoch if self.facts.split == "train" else 0
        # A generator of its own. Random hashes a str with SHA-512: the same in every process and on every machine.
        jitter = Random(f"dfm-example/text/{self.facts.seed}/{self.facts.split}/{epoch}/{index}")
        image = write(self.classes[label], (self.facts.size[0], self.facts.size[1]), jitter)
        values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return {"image": values.view(*self.facts.size, 3).permute(2, 0, 1) / 127.5 - 1, "label": label}


def write(word: str, size: tuple[int, int], jitter: Random) -> Image.Image:
    """Draw a word on a plain ground. size: height × width. jitter: source of the place, the size and the colours."""
    height, width = size
    ground, ink = _colours(jitter)
    image = Image.new("RGB", (width, height), ground)
    left, top, right, bottom = _font(100).getbbox(word, stroke_width=round(BOLD * 100))
    largest = 100 * min(width / (right - left), height / (bottom - top))
    points = max(4, int(largest * jitter.uniform(0.6, 0.9)))
    font, stroke = _font(points), round(BOLD * points)
    left, top, right, bottom = font.getbbox(word, stroke_width=stroke)
    x, y = jitter.random() * (width - (right - left)), jitter.random() * (height - (bottom - top))
    ImageDraw.Draw(image).text((x - left, y - top), word, fill=ink, font=font, stroke_width=stroke)
    return image


def _colours(jitter: Random) -> tuple[Colour, Colour]:
    """Return ground and ink: one dark, one bright."""
    dark, bright = _colour(jitter, 0), _colour(jitter, 160)
    return (dark, bright) if jitter.random() < 0.5 else (bright, dark)


def _colour(jitter: Random, least: int) -> Colour:
    return least + jitter.randrange(96), least + jitter.randrange(96), least + jitter.randrange(96)


@lru_cache(maxsize=256)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
