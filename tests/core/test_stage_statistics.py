"""Statistics of the stages: against float64 NumPy, without float64 on the device, from fewer images where large."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dfm_core.interfaces.autoencoder import AutoencoderFacts
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, StoredLatents
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.plugins import Options
from dfm_core.plugins.registry import default_registry
from dfm_core.runs.evaluation import statistics_batches, statistics_size
from dfm_core.stage_space import StageStatistics, estimate_statistics, row_sums


class Doubles(TorchDispatchMode):
    """Counts the elements of the float64 tensors that are made: on the device (not the CPU), and the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.on_device, self.largest = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
                self.on_device += tensor.numel() if tensor.device.type != "cpu" else 0
                self.largest = max(self.largest, tensor.numel())
        return made


class Counted(Dataset):
    """Samples of one size that know their number."""

    channels, classes = 1, ()

    def __len__(self) -> int:
        return 300

    def load(self, index: int, epoch: int) -> dict[str, Any]:
        return {"image": torch.full((1, 1, 1), float(index))}


def counted(*size: int) -> Counted:
    return Counted(Options(), DatasetFacts(size, "train", 0))


def measured(*batches: Tensor) -> StageStatistics:
    registry = default_registry()
    size = tuple(batches[0].shape[2:])
    identity = registry.create("decomposition", "identity", {}, DecompositionFacts((size,), 3))
    return estimate_statistics(
        registry.create("autoencoder", "pixels", {}, AutoencoderFacts(3)), identity, [{"image": b} for b in batches]
    )


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.5, 0.3), (-0.9, 0.05), (0.0, 1e-3)])
def test_they_are_those_of_float64(mean: float, deviation: float) -> None:
    images = torch.randn(24, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * deviation + mean
    exact = images.numpy().astype(np.float64)
    found = measured(images[:16], images[16:])
    assert found.rms[0] == pytest.approx(np.sqrt(np.square(exact).mean()), rel=1e-6)
    assert found.std[0] == pytest.approx(exact.std(), rel=1e-6)


def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    images, before = torch.rand(8, 3, 128, 128), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(measured(images))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_the_device_needs_no_float64() -> None:
    """On "meta", which stands for any device that is not the CPU; what the CPU gets is a row's number, not the row."""
    with Doubles() as doubles:
        row_sums(torch.empty(2, 3, 8, 8, device="meta"))
    assert doubles.largest == 0
    with Doubles() as doubles:
        measured(torch.rand(4, 3, 32, 32))
    assert (doubles.on_device, doubles.largest) == (0, 4 * 3 * 32)


@pytest.mark.parametrize(
    ("size", "asked", "taken"),
    [
        ((32, 32), 256, 256),
        ((512, 512), 256, 256),
        ((768, 768), 256, 113),
        ((1024, 1024), 256, 64),
        ((4096, 4096), 256, 64),
        ((17, 512, 512), 256, 64),
        ((4096, 4096), 8, 8),
        ((8, 8), 1000, 300),
    ],
)
def test_large_images_are_fewer(size: tuple[int, ...], asked: int, taken: int) -> None:
    assert statistics_size(counted(*size), asked) == taken


def test_latents_count_as_what_they_are() -> None:
    class Latents(Counted):
        latents = StoredLatents("x", (16, 128, 128))

    assert statistics_size(Latents(Options(), DatasetFacts((1024, 1024), "train", 0)), 256) == 256


def test_a_long_measurement_says_so() -> None:
    said: list[str] = []
    batches = list(statistics_batches(counted(1024, 1024), 256, say=said.append))
    assert sum(len(batch["image"]) for batch in batches) == 64
    assert ["64 samples of 1024 pixels" in line for line in said] == [True]
    list(statistics_batches(counted(32, 32), 256, say=said.append))
    assert len(said) == 1
