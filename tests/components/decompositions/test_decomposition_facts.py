"""Facts about decompositions that trip people up."""

from __future__ import annotations

import pytest
import pywt
import torch
from torch import Tensor
from torch.nn import functional as F

from dfm_core.interfaces.decomposition import Decomposition, DecompositionFacts
from dfm_core.plugins import Options
from dfm_core.stages import Size
from dfm_plugins.decompositions import dct, dwt, fourier, laplacian
from dfm_plugins.decompositions.specs import CosineOptions, LaplacianOptions, WaveletOptions


def square_sizes(*lengths: int) -> tuple[Size, ...]:
    return tuple((length, length) for length in lengths)


def build_laplacian(*lengths: int, channels: int = 3, **options: str) -> Decomposition:
    return laplacian.Laplacian(
        LaplacianOptions.model_validate(options), DecompositionFacts(square_sizes(*lengths), channels)
    )


def build_wavelet(*lengths: int, channels: int = 3, **options: str) -> Decomposition:
    return dwt.WaveletTransform(
        WaveletOptions.model_validate(options), DecompositionFacts(square_sizes(*lengths), channels)
    )


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


def test_recomposition_is_chained_not_summed() -> None:
    decomposition = build_laplacian(16, 32, 64, filter="bilinear")
    stages = decomposition.decompose(noise(2, 3, 64, 64))
    summed = sum(F.interpolate(stage, (64, 64), mode="bilinear") for stage in stages)
    assert (summed - decomposition.recompose(stages)).abs().max() > 0.01


def test_orthonormal_low_bands_have_a_gain_that_previews_have_not() -> None:
    constant = torch.full((1, 1, 256, 256), 0.3, dtype=torch.float64)
    gain = pywt.wavedec2(constant[0, 0].numpy(), "db2", mode="periodization", level=2)[0] / 0.3
    torch.testing.assert_close(torch.from_numpy(gain), torch.full((64, 64), 4.0, dtype=torch.float64))
    for domain in ("spatial", "coefficients"):
        low = build_wavelet(64, 256, channels=1, wavelet="db2", domain=domain).decompose(constant)[0]
        torch.testing.assert_close(low, torch.full_like(low, 0.3))


@pytest.mark.parametrize("wavelet_and_shift", [("haar", 0.0), ("db2", 0.43)], ids=str)
def test_wavelet_previews_shift(wavelet_and_shift: tuple[str, float]) -> None:
    wavelet, shift = wavelet_and_shift
    ramp = (torch.arange(64, dtype=torch.float64) + 0.5).expand(1, 1, 64, 64)
    preview = build_wavelet(32, 64, channels=1, wavelet=wavelet).decompose(ramp)[0][0, 0, 16]
    centre = 2 * torch.arange(32, dtype=torch.float64) + 1
    off_centre = ((preview - centre) / 2)[4:-4].abs()  # in preview pixels, away from the periodic seam
    torch.testing.assert_close(off_centre, torch.full_like(off_centre, shift), atol=4e-3, rtol=0)


def test_area_at_four_times_does_not_alias_and_plain_bilinear_does() -> None:
    pattern = torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=torch.float64).repeat(16)
    stripes = pattern.expand(1, 1, 64, 64)
    plain = F.interpolate(stripes, (16, 16), mode="bilinear", align_corners=False)
    assert plain.min() == 1  # the stripes have become a white image
    assert build_laplacian(16, 64, channels=1).decompose(stripes)[0].abs().max() == 0
    for name in ("bilinear", "bicubic", "gaussian"):
        low = build_laplacian(16, 64, channels=1, filter=name).decompose(stripes)[0]
        assert low[..., 2:-2].abs().max() < 0.15, name


def test_at_a_factor_of_two_area_is_plain_bilinear() -> None:
    x = noise(1, 3, 32, 32)
    plain = F.interpolate(x, (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(build_laplacian(16, 32).decompose(x)[0], plain)


def test_no_laplacian_filter_shifts_the_picture() -> None:
    ramp = (torch.arange(64, dtype=torch.float64) + 0.5).expand(1, 1, 64, 64)
    for length in (32, 16, 24):
        centre = 64 / length * (torch.arange(length, dtype=torch.float64) + 0.5)
        for name in ("bilinear", "bicubic", "gaussian"):
            low = build_laplacian(length, 64, channels=1, filter=name).decompose(ramp)[0][0, 0, 3]
            torch.testing.assert_close(low[6:-6], centre[6:-6], atol=0.05, rtol=0)


def test_recompose_takes_stages_that_are_no_pyramid_of_any_image() -> None:
    decomposition = build_laplacian(8, 16, 32)
    stages = (noise(1, 3, 8, 8), noise(1, 3, 16, 16), noise(1, 3, 32, 32))
    image = decomposition.recompose(stages)
    again = decomposition.decompose(image)
    assert (again[1] - stages[1]).abs().max() > 0.1
    torch.testing.assert_close(decomposition.recompose(again), image)


@pytest.mark.parametrize("wavelet", ["db4", "bior2.2"])
def test_any_coefficients_come_back_from_a_critically_sampled_transform(wavelet: str) -> None:
    decomposition = build_wavelet(8, 16, 64, domain="coefficients", wavelet=wavelet)
    stages = [noise(2, *stage.shape) for stage in decomposition.layout((3, 64, 64))]
    for one, other in zip(decomposition.decompose(decomposition.recompose(stages)), stages, strict=True):
        torch.testing.assert_close(one, other)


def test_half_precision_is_computed_in_single() -> None:
    x = noise(2, 3, 32, 32, dtype=torch.bfloat16)
    whole_sizes = DecompositionFacts(square_sizes(8, 32), 3)
    for decomposition in (
        build_laplacian(8, 32, filter="bicubic"),
        fourier.FourierTransform(Options(), whole_sizes),
        dct.CosineTransform(CosineOptions.model_validate({"block": 8, "domain": "coefficients"}), whole_sizes),
    ):
        for half, single in zip(decomposition.decompose(x), decomposition.decompose(x.float()), strict=True):
            assert torch.equal(half, single.bfloat16())


def test_a_lower_matmul_precision_neither_counts_nor_is_lost() -> None:
    x, decomposition = noise(2, 3, 16, 16, dtype=torch.float32), build_wavelet(8, 16, wavelet="db2")
    plain = decomposition.decompose(x)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert all(map(torch.equal, decomposition.decompose(x), plain))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_sampling_kept_serves_in_training() -> None:
    decomposition = build_wavelet(12, 24, wavelet="sym3")  # matrices that no other test has made
    with torch.inference_mode():
        decomposition.decompose(noise(1, 3, 24, 24))
    x = noise(1, 3, 24, 24).requires_grad_()
    decomposition.decompose(x)[1].square().sum().backward()
    assert x.grad is not None
