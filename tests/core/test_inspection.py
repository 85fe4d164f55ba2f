"""Numbers about a decomposed image, against independent ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from dfm_core.inspection import DecompositionReport, inspect_decomposition
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.plugins.registry import default_registry

SIZES = ((8, 12), (16, 24), (32, 48))


def image(channels: int = 3) -> torch.Tensor:
    return torch.rand(1, channels, *SIZES[-1], generator=torch.Generator().manual_seed(0)) * 2 - 1


def inspect(name: str, options: dict[str, object] | None = None, channels: int = 3) -> DecompositionReport:
    facts = DecompositionFacts(SIZES, channels)
    return inspect_decomposition(
        default_registry().create("decomposition", name, options or {}, facts), image(channels)
    )


def test_shapes_and_previews() -> None:
    report = inspect("laplacian")
    assert [numbers.resolution for numbers in report.numbers] == list(SIZES)
    assert [tuple(preview.shape) for preview in report.previews] == [(1, 3, *size) for size in SIZES]
    assert [numbers.shape for numbers in report.numbers] == [tuple(stage.shape[1:]) for stage in report.stages]
    assert report.largest_error == float((report.previews[-1] - image()).abs().max()) < 1e-6
    assert report.mean_error <= report.largest_error


def test_root_mean_squares_of_the_cosine_transform() -> None:
    report = inspect("dct", channels=1)
    spectrum = scipy.fft.dctn(image(1)[0, 0].double().numpy(), norm="ortho")
    energies, kept = [], 0.0
    for height, width in SIZES:
        total = float(np.square(spectrum[:height, :width]).sum())
        energies.append(total - kept)
        kept = total
    assert [numbers.energy for numbers in report.numbers] == pytest.approx([e / kept for e in energies], rel=1e-5)
    pixels = SIZES[-1][0] * SIZES[-1][1]  # with unit gain, every stage has the mean square of its share of the picture
    assert [numbers.rms**2 for numbers in report.numbers] == pytest.approx([e / pixels for e in energies], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dct", {}),
        ("dwt", {"wavelet": "haar"}),
        ("dwt", {"wavelet": "db2"}),
        ("dwt", {"wavelet": "sym4", "domain": "coefficients"}),
        ("dct", {"block": 4, "domain": "coefficients"}),
        ("laplacian", {"up": "nearest"}),
    ],
)
def test_energies_of_orthogonal_transforms_are_those_of_the_image(name: str, options: dict[str, object]) -> None:
    report = inspect(name, options)
    pixels = 3 * SIZES[-1][0] * SIZES[-1][1]
    parts = [
        numbers.rms**2 * stage.numel() * SIZES[-1][0] ** 2 / numbers.resolution[0] ** 2
        for numbers, stage in zip(report.numbers, report.stages, strict=True)
    ]
    assert sum(parts) == pytest.approx(float(image().double().square().mean()) * pixels, rel=1e-5)
    assert [numbers.energy for numbers in report.numbers] == pytest.approx([p / sum(parts) for p in parts])


def test_standard_deviation_leaves_the_mean_out() -> None:
    decomposition = default_registry().create("decomposition", "laplacian", {}, DecompositionFacts(SIZES, 3))
    report = inspect_decomposition(decomposition, torch.full((1, 3, *SIZES[-1]), 0.5))
    assert [numbers.rms for numbers in report.numbers] == pytest.approx([0.5, 0, 0])
    assert [numbers.std for numbers in report.numbers] == pytest.approx([0, 0, 0], abs=1e-7)
    assert report.numbers[0].energy == pytest.approx(1)


def test_a_black_square_has_no_energy_and_no_division_by_zero() -> None:
    decomposition = default_registry().create("decomposition", "laplacian", {}, DecompositionFacts(SIZES, 3))
    report = inspect_decomposition(decomposition, torch.zeros(1, 3, *SIZES[-1]))
    assert [numbers.energy for numbers in report.numbers] == [0, 0, 0]
