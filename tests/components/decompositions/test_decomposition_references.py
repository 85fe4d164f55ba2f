"""Numbers from independent sources: PyWavelets, SciPy, torch's own pooling."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import scipy.fft
import scipy.signal
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.plugins import Options
from dfm_core.stages import Size, Stages
from dfm_plugins.decompositions import dct, dwt, fourier, laplacian
from dfm_plugins.decompositions.specs import CosineOptions, LaplacianOptions, WaveletOptions

WAVELETS = ["haar", "db2", "db7", "sym4", "coif1", "bior2.2", "bior3.5", "rbio1.3"]


def image(size: Size, channels: int = 2) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def wavelet_stages(x: Tensor, wavelet: str, domain: str, *sizes: Size) -> Stages:
    options = WaveletOptions.model_validate({"wavelet": wavelet, "domain": domain})
    return dwt.WaveletTransform(options, DecompositionFacts(sizes, x.shape[1])).decompose(x)


def cosine_stages(x: Tensor, options: dict[str, object], *sizes: Size) -> Stages:
    return dct.CosineTransform(CosineOptions.model_validate(options), DecompositionFacts(sizes, x.shape[1])).decompose(
        x
    )


def close(ours: Tensor, reference: NDArray[np.float64] | Tensor, bound: float = 1e-11) -> None:
    np.testing.assert_allclose(ours.numpy(), np.asarray(reference), rtol=0, atol=bound)


def space_to_depth(band: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, C, H, W) -> (B, 4C, H/2, W/2), written with slices."""
    return np.concatenate([band[..., row::2, column::2] for row in (0, 1) for column in (0, 1)], axis=1)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_one_level_is_pywavelets(wavelet: str) -> None:
    x = image((16, 24))
    low, details = pywt.dwt2(x.numpy(), wavelet, mode="periodization")
    ours = wavelet_stages(x, wavelet, "coefficients", (8, 12), (16, 24))
    close(ours[0], low / 2)
    close(ours[1], np.concatenate(details, axis=1))


@pytest.mark.filterwarnings("ignore:Level value:UserWarning")
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_two_levels_in_one_stage_are_pywavelets(wavelet: str) -> None:
    x = image((16, 24))
    low, coarse, fine = pywt.wavedec2(x.numpy(), wavelet, mode="periodization", level=2)
    ours = wavelet_stages(x, wavelet, "coefficients", (4, 6), (16, 24))
    assert ours[1].shape == (2, 15 * 2, 4, 6)
    close(ours[0], low / 4)
    close(ours[1], np.concatenate([*coarse, *(space_to_depth(band) for band in fine)], axis=1))


@pytest.mark.filterwarnings("ignore:Level value:UserWarning")
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_a_middle_stage_holds_the_coefficients_of_its_own_preview(wavelet: str) -> None:
    x = image((16, 24))
    _, coarse, fine = pywt.wavedec2(x.numpy(), wavelet, mode="periodization", level=2)
    ours = wavelet_stages(x, wavelet, "coefficients", (4, 6), (8, 12), (16, 24))
    close(ours[1], np.concatenate(coarse, axis=1) / 2)  # preview 2 is the low band / 2
    close(ours[2], np.concatenate(fine, axis=1))


@pytest.mark.parametrize("wavelet", [*WAVELETS, "dmey"])
def test_spatial_stages_are_the_inverse_transform_of_the_details(wavelet: str) -> None:
    x = image((16, 32))
    low, details = pywt.dwt2(x.numpy(), wavelet, mode="periodization")
    ours = wavelet_stages(x, wavelet, "spatial", (8, 16), (16, 32))
    close(ours[0], low / 2, 1e-2 if wavelet == "dmey" else 1e-11)
    if wavelet != "dmey":  # whose residual also carries what its filters miss
        close(ours[1], pywt.idwt2((None, details), wavelet, mode="periodization"))


@pytest.mark.parametrize("wavelet", ["db4", "sym8", "bior2.8", "db20"])
@pytest.mark.parametrize("length", [2, 4, 6, 10])
def test_signals_shorter_than_the_filter_wrap_as_in_pywavelets(wavelet: str, length: int) -> None:
    x = image((length, length))[0, 0].numpy()
    low, high = pywt.dwt(x, wavelet, mode="periodization", axis=0)
    mixed = dwt.analysis_matrix(wavelet, length) @ x
    np.testing.assert_allclose(mixed[::2], low, atol=1e-12)
    np.testing.assert_allclose(mixed[1::2], high, atol=1e-12)
    np.testing.assert_allclose(dwt.synthesis_matrix(wavelet, length) @ mixed, x, atol=1e-9)


def test_pywavelets_default_boundary_mode_would_not_halve() -> None:
    picture = image((64, 64))[0, 0].numpy()
    assert pywt.dwt2(picture, "db2")[0].shape == (33, 33)
    assert pywt.dwt2(picture, "db2", mode="periodization")[0].shape == (32, 32)


@pytest.mark.parametrize("length", [1, 2, 7, 32])
def test_cosine_basis_is_scipys(length: int) -> None:
    x = image((length, 5))[0, 0].numpy()
    np.testing.assert_allclose(dct.dct_matrix(length) @ x, scipy.fft.dct(x, norm="ortho", axis=0), atol=1e-13)
    np.testing.assert_allclose(dct.inverse_dct_matrix(length) @ x, scipy.fft.idct(x, norm="ortho", axis=0), atol=1e-13)


@pytest.mark.parametrize("small", [(8, 12), (5, 17), (15, 23)])
def test_whole_image_cosine_low_pass_is_scipys(small: Size) -> None:
    x = image((16, 24))
    spectrum = scipy.fft.dctn(x.numpy(), norm="ortho", axes=(2, 3))
    gain = np.sqrt(small[0] * small[1] / (16 * 24))
    low, detail = cosine_stages(x, {}, small, (16, 24))
    close(low, gain * scipy.fft.idctn(spectrum[..., : small[0], : small[1]], norm="ortho", axes=(2, 3)))
    spectrum[..., : small[0], : small[1]] = 0
    close(detail, scipy.fft.idctn(spectrum, norm="ortho", axes=(2, 3)))


@pytest.mark.parametrize("block", [4, 8])
@pytest.mark.parametrize("size", [(16, 24), (144, 8)])
def test_block_cosine_coefficients_are_scipys(block: int, size: Size) -> None:
    x = image(size)
    blocks = x.numpy().reshape(2, 2, size[0] // block, block, size[1] // block, block)
    spectrum = scipy.fft.dctn(blocks, norm="ortho", axes=(3, 5))
    half = block // 2
    small = (size[0] // 2, size[1] // 2)
    ours = cosine_stages(x, {"block": block, "domain": "coefficients"}, small, size)
    assert ours[0].shape == (2, 2 * half**2, size[0] // block, size[1] // block)
    assert ours[1].shape == (2, 2 * (block**2 - half**2), size[0] // block, size[1] // block)
    close(ours[0][:, :2], spectrum[..., 0, :, 0] / 2)  # all channels of the lowest frequency come first
    close(ours[1][:, -2:], spectrum[..., block - 1, :, block - 1])  # and those of the highest last
    close(ours[1][:, :2], spectrum[..., 0, :, half])
    low = scipy.fft.idctn(spectrum[:, :, :, :half, :, :half] / 2, norm="ortho", axes=(3, 5)).reshape(2, 2, *small)
    close(cosine_stages(x, {"block": block}, small, size)[0], low)


@pytest.mark.parametrize("small", [(8, 12), (5, 17), (15, 23), (16, 11)])
def test_fourier_is_scipys_resample(small: Size) -> None:
    x = image((16, 24))
    low, detail = fourier.FourierTransform(Options(), DecompositionFacts((small, (16, 24)), 2)).decompose(x)
    reference = scipy.signal.resample(scipy.signal.resample(x.numpy(), small[0], axis=2), small[1], axis=3)
    close(low, reference)
    enlarged = scipy.signal.resample(scipy.signal.resample(reference, 16, axis=2), 24, axis=3)
    close(detail, x.numpy() - enlarged)


@pytest.mark.parametrize("small", [(8, 12), (4, 6), (12, 18), (5, 7)])
def test_area_is_adaptive_average_pooling(small: tuple[int, int]) -> None:
    x = image((16, 24))
    options = LaplacianOptions.model_validate({})
    low, detail = laplacian.Laplacian(options, DecompositionFacts((small, (16, 24)), 2)).decompose(x)
    assert torch.equal(low, F.adaptive_avg_pool2d(x, small))
    close(detail, x - F.interpolate(low, (16, 24), mode="bilinear"))


@pytest.mark.parametrize("ratio", [2, 4])
def test_area_with_nearest_is_the_haar_transform(ratio: int) -> None:
    x = image((16, 24))
    sizes = ((16 // ratio, 24 // ratio), (16, 24))
    options = LaplacianOptions.model_validate({"up": "nearest"})
    ours = laplacian.Laplacian(options, DecompositionFacts(sizes, 2)).decompose(x)
    for one, other in zip(ours, wavelet_stages(x, "haar", "spatial", *sizes), strict=True):
        close(one, other)
