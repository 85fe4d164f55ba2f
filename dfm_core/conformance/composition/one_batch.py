"""One batch as a data set, and its loss."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import default_collate

from dfm_core.composition import Composition
from dfm_core.errors import DataError, UnreadableSampleError
from dfm_core.interfaces.dataset import Dataset, Sample
from dfm_core.randomness import BatchRandomness

BATCH_SIZE = 4
_DRAWS = 8
# Far from the steps of a training, whose draws these are not.
_FIRST_DRAW = 1_000_000


class OneBatch(Dataset):
    """The first readable samples of a data set, over and over: every epoch is the same batch."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset.options, dataset.facts)
        self.channels = dataset.channels
        self._classes = dataset.classes
        self._samples = list(islice(_readable(dataset), BATCH_SIZE))
        if not self._samples:
            raise DataError(f"the data set has no readable sample among {len(dataset)}, expected one at least")

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the data set."""
        return self._classes

    def __len__(self) -> int:
        """Size of the batch."""
        return BATCH_SIZE

    def load(self, index: int, epoch: int) -> Sample:
        """Return a sample of the batch, in any epoch the same."""
        sample = self._samples[index % len(self._samples)]
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in sample.items()}

    def batch(self) -> dict[str, Tensor]:
        """All of it."""
        collated: dict[str, Tensor] = default_collate([self.load(index, 0) for index in range(len(self))])
        return collated


@torch.no_grad()
def mean_loss(composition: Composition, batch: dict[str, Tensor], seed: int) -> float:
    """Loss of a batch in evaluation mode, over draws of noise and timesteps that are always the same."""
    objective, network = composition.objective(), composition.model
    was_training = network.training
    network.eval()
    draws = (BatchRandomness(seed, _FIRST_DRAW + index, 0, BATCH_SIZE, BATCH_SIZE) for index in range(_DRAWS))
    losses = [objective(batch, randomness).loss for randomness in draws]
    network.train(was_training)
    return float(torch.stack(losses).mean())


def _readable(dataset: Dataset) -> Iterator[Sample]:
    for index in range(len(dataset)):
        try:
            yield dataset.load(index, 0)
        except UnreadableSampleError:
            continue
