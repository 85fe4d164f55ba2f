"""A small model with the component that is judged: put together, trained and sampled once for all laws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from dfm_core.assembly import Assembler, with_objects
from dfm_core.composition import Composition
from dfm_core.conformance.composition.one_batch import OneBatch, mean_loss
from dfm_core.conformance.composition.small_config import Partners, SmallConfig
from dfm_core.conformance.law import LawSkipped
from dfm_core.conformance.subject import Subject
from dfm_core.model import load
from dfm_core.plugins.registry import Registry
from dfm_core.runs.start import start_run

IMAGES = 4

Made = TypeVar("Made")


class Once(Generic[Made]):
    """A value that is made at the first call. Where that fails, later calls raise LawSkipped with `otherwise`."""

    def __init__(self, make: Callable[[], Made], otherwise: str) -> None:
        self._make, self._otherwise = make, otherwise
        self._made: list[Made] = []
        self._tried = False

    def __call__(self) -> Made:
        """Return the value."""
        if not self._made:
            if self._tried:
                raise LawSkipped(self._otherwise)
            self._tried = True
            self._made.append(self._make())
        return self._made[0]


@dataclass(frozen=True)
class Trained:
    """A run on one batch. loss_before, loss_after: of that batch, over the same draws. channels: of the images."""

    path: Path
    channels: int
    loss_before: float
    loss_after: float


@dataclass(frozen=True)
class Generated:
    """previews: number of stages -> images. images: at the end, in [-1, 1]."""

    previews: Mapping[int, Tensor]
    images: Tensor


class SmallModel:
    """What the laws of composition look at; the first law that asks for a part hears why it cannot be made.

    folder: an empty one, for the run. partners: in the place of the default components.
    """

    def __init__(self, subject: Subject, registry: Registry, folder: Path, partners: Partners) -> None:
        self._registry = registry
        config = SmallConfig(subject, registry, folder, partners)
        self.accepted = Once(config.accepted, "no stages were accepted")
        self.fitting = Once(lambda: config.fitting(self.accepted()), "no schedule and sampler fit")
        self.trained = Once(self._train, "the training failed")
        self.generated = Once(self._generate, "the generation failed")

    def _train(self) -> Trained:
        """Train on one batch."""
        config = self.fitting().config
        dataset = OneBatch(Assembler(config, self._registry).dataset())
        batch, before = dataset.batch(), [0.0]

        def announce(path: Path, composition: Composition) -> None:
            before[0] = mean_loss(composition, batch, config.seed)

        objects = {"dataset": dataset}
        run = start_run(with_objects(config, objects), self._registry, objects=objects, announce=announce)
        after = mean_loss(run.composition, batch, config.seed)
        return Trained(run.path, dataset.channels, before[0], after)

    def _generate(self) -> Generated:
        """Generate with the model from its checkpoint."""
        model = load(self.trained().path, device="cpu", registry=self._registry)
        previews: dict[int, Tensor] = {}
        for step in model.stream(IMAGES):
            if step.stage_finished:
                previews[step.num_visible] = step.preview()
        return Generated(previews, step.preview().clamp(-1, 1))
