"""A small classifier, trained on the reference at hand, whose features need no weights from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfm_core.errors import DataError
from dfm_core.interfaces.autoencoder import state_digest
from dfm_core.interfaces.metric import ImageBatch, MetricFacts
from dfm_core.randomness import derive_generator
from dfm_plugins.metrics.frames import as_frames, is_of_clips, noun_of
from dfm_plugins.metrics.frechet import Extractor, FrechetDistance
from dfm_plugins.metrics.specs import ClassifierFrechetOptions, ClassifierOptions

WIDTHS = (32, 64, 64)
TURNS = 4
_ACCURACY = "accuracy"
_BATCH = 64
_HELD_OUT = 10
_LEARNING_RATE = 3e-3


class Classifier(nn.Module):
    """Three convolutions of stride 2, the mean over places as features (B, 64), and a linear layer on top.

    Of clips, the convolutions are those of three dimensions, and the mean is also over time.
    """

    def __init__(self, channels: int, classes: int, clips: bool = False) -> None:
        super().__init__()
        kind = nn.Conv3d if clips else nn.Conv2d
        convolutions = [kind(a, b, 3, stride=2, padding=1) for a, b in pairwise((channels, *WIDTHS))]
        norms = [nn.GroupNorm(8, width) for width in WIDTHS]
        layers = zip(convolutions, norms, strict=True)
        self.body = nn.Sequential(*(part for pair in layers for part in (*pair, nn.SiLU())))
        self.head = nn.Linear(WIDTHS[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """Describe images (B, C, *spatial) by (B, 64)."""
        described: Tensor = self.body(images).mean(tuple(range(2, images.ndim)))
        return described

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class ClassifierFeatures(Extractor):
    """Features of a classifier of the reference's classes, or of one that tells how an image is turned.

    The latter where there are no two classes, after Gidaris et al. 2018: by 0, 1, 2 or 3 quarter turns. Of clips it
    also tells whether the frames are in their order or shuffled, after Misra et al. 2016.
    """

    name, dimensions = "classifier", WIDTHS[-1]

    def __init__(self, options: ClassifierOptions, facts: MetricFacts) -> None:
        self.options, self.facts = options, facts
        # Of one class there is nothing to tell.
        self._classes = facts.classes if len(facts.classes) > 1 else ()
        self.network = self._untrained().eval().requires_grad_(False)
        self._accuracy = float("nan")

    def _untrained(self) -> Classifier:
        """Weights and biases uniform within ±1/√inputs, as PyTorch's own layers begin."""
        with torch.device("meta"):
            network = Classifier(self.facts.channels, self._answers, self._clips)
        network.to_empty(device="cpu")
        generator = derive_generator(self.options.seed, "classifier")
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear):
                reach = layer.weight[0].numel() ** -0.5
                for parameter in (layer.weight, layer.bias):
                    nn.init.uniform_(cast(Tensor, parameter), -reach, reach, generator=generator)
            elif isinstance(layer, nn.GroupNorm):
                layer.reset_parameters()
        return network.to(self.facts.device)

    @property
    def _clips(self) -> bool:
        return is_of_clips(self.facts)

    @property
    def _answers(self) -> int:
        return len(self._classes) or (2 * TURNS if self._clips else TURNS)

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """What it was trained for, at which size, with which seed, how well it does on images that it did not see."""
        task = f"{len(self._classes)} classes" if self._classes else "quarter turns of unlabelled images"
        if self._clips:
            unlabelled = "quarter turns and shuffled frames of unlabelled clips"
            task = f"{task} of clips" if self._classes else unlabelled
        return {
            "network": f"classifier of {task}",
            "resolution": self.options.resolution,
            "seed": self.options.seed,
            _ACCURACY: self._accuracy,
            "digest": state_digest(self.network.state_dict()),
        }

    def __call__(self, batch: ImageBatch) -> Tensor:
        """Return features (B, 64)."""
        return self.network.features(shrunk(batch.images, self.options.resolution))

    def prepare(self, reference: Iterable[ImageBatch]) -> dict[str, Tensor]:
        """Train on nine tenths of the images, measure the accuracy on the others."""
        images, labels = self._examples(reference)
        held_out = max(1, len(images) // _HELD_OUT)
        train, test = slice(held_out, None), slice(held_out)
        network = self._untrained()
        with torch.enable_grad():
            self._train(network, images[train], None if labels is None else labels[train])
        accuracy = self._measure(network.eval(), images[test], None if labels is None else labels[test])
        return {**network.state_dict(), _ACCURACY: torch.tensor(accuracy, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take weights and accuracy."""
        self.network.load_state_dict({name: value for name, value in state.items() if name != _ACCURACY})
        self._accuracy = round(float(state[_ACCURACY]), 4)

    def _examples(self, reference: Iterable[ImageBatch]) -> tuple[Tensor, Tensor | None]:
        """The first images, small, on the device; and their labels, where there are any."""
        images, labels, count = [], [], 0
        for batch in reference:
            images.append(shrunk(batch.images, self.options.resolution))
            labels += [] if batch.labels is None else [batch.labels]
            count += len(batch.images)
            if count >= self.options.training_images:
                break
        if count < 2:
            raise DataError(f"the classifier needs at least 2 reference {noun_of(self.facts)}, got {count}")
        number = self.options.training_images
        together = torch.cat(images)[:number]
        if not self._classes:
            square = min(together.shape[-2:])
            return centre(together, square), None
        return together, torch.cat(labels)[:number].to(self.facts.device)

    def _train(self, network: Classifier, images: Tensor, labels: Tensor | None) -> None:
        steps = self.options.steps
        optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps + 1)
        generator = derive_generator(self.options.seed, "classifier batches")
        for _ in range(steps):
            chosen = torch.randint(len(images), (min(_BATCH, len(images)),), generator=generator).to(images.device)
            shown, expected = self._task(images[chosen], None if labels is None else labels[chosen], generator)
            loss = F.cross_entropy(network(shown), expected)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def _task(self, images: Tensor, labels: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What is shown and what is to be said of it."""
        if labels is not None:
            return images, labels
        turns = torch.randint(TURNS, (len(images),), generator=generator)
        turned = [torch.rot90(image, int(turn), (-2, -1)) for image, turn in zip(images, turns, strict=True)]
        if self._clips:
            shuffles = torch.randint(2, (len(images),), generator=generator)
            turned = [shuffled(c, generator) if s else c for c, s in zip(turned, shuffles, strict=True)]
            turns = turns + TURNS * shuffles
        return torch.stack(turned), turns.to(images.device)

    def _measure(self, network: Classifier, images: Tensor, labels: Tensor | None) -> float:
        generator = derive_generator(self.options.seed, "classifier test")
        shown, expected = self._task(images, labels, generator)
        with torch.no_grad():
            guesses = torch.cat([network(part).argmax(1) for part in shown.split(_BATCH)])
        return float((guesses == expected).cpu().double().mean())


class ClassifierFrechetDistance(FrechetDistance):
    """Fréchet distance of the classifier's features. Numbers are comparable where the reference is the same."""

    options: ClassifierFrechetOptions

    def __init__(self, options: ClassifierFrechetOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts, ClassifierFeatures(options, facts), "fd")


def shuffled(clip: Tensor, generator: torch.Generator) -> Tensor:
    """A clip (C, T, H, W) with its frames in another order; one of two frames or more."""
    frames = clip.shape[1]
    order = torch.randperm(frames, generator=generator)
    if torch.equal(order, torch.arange(frames)):
        order = order.roll(1)
    return clip[:, order.to(clip.device)]


def shrunk(images: Tensor, short_side: int) -> Tensor:
    """Images (B, C, H, W), or clips (B, C, T, H, W), whose short side is at most so long, shrunk with antialiasing."""
    height, width = images.shape[-2:]
    if min(height, width) <= short_side:
        return images
    size = [round(length * short_side / min(height, width)) for length in (height, width)]
    frames = F.interpolate(as_frames(images), size, mode="bilinear", antialias=True, align_corners=False)
    return frames if images.ndim == 4 else frames.unflatten(0, (len(images), -1)).transpose(1, 2)


def centre(images: Tensor, length: int) -> Tensor:
    """The square in the middle of images (B, C, *, H, W)."""
    top, left = ((side - length) // 2 for side in images.shape[-2:])
    return images[..., top : top + length, left : left + length]
