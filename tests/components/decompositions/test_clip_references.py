"""Clips against independent sources: PyWavelets and SciPy in three dimensions, torch in one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pywt
import scipy.fft
import scipy.signal
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dfm_core.interfaces.decomposition import Decomposition, DecompositionFacts
from dfm_core.plugins import Options
from dfm_core.stages import Size, Stages
from dfm_plugins.decompositions import dct, downsampled, dwt, fourier, laplacian
from dfm_plugins.decompositions.specs import (
    CosineOptions,
    DownsampledOptions,
    FourierOptions,
    LaplacianOptions,
    WaveletOptions,
)

WAVELETS = ["haar", "db2", "db7", "sym4", "bior2.2", "rbio1.3"]
BANDS = ["daa", "ada", "dda", "aad", "dad", "add", "ddd"]
BUILDERS: dict[str, tuple[Callable[..., Decomposition], type[Options]]] = {
    "laplacian": (laplacian.Laplacian, LaplacianOptions),
    "dwt": (dwt.WaveletTransform, WaveletOptions),
    "dct": (dct.CosineTransform, CosineOptions),
    "fourier": (fourier.FourierTransform, FourierOptions),
    "downsampled": (downsampled.Downsampled, DownsampledOptions),
}


def build(name: str, *sizes: Size, channels: int = 2, **options: object) -> Decomposition:
    component, model = BUILDERS[name]
    return component(model.model_validate(options), DecompositionFacts(sizes, channels))


def clip(size: Size, channels: int = 2) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(ours: Tensor, reference: NDArray[np.float64] | Tensor, bound: float = 1e-11) -> None:
    np.testing.assert_allclose(ours.numpy(), np.asarray(reference), rtol=0, atol=bound)


def wavelet_bands(x: Tensor, wavelet: str, axes: tuple[int, ...] = (2, 3, 4)) -> dict[str, NDArray[np.float64]]:
    return pywt.dwtn(x.numpy(), wavelet, mode="periodization", axes=axes)  # type: ignore[no-any-return]


def space_to_depth(band: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, C, T, H, W) -> (B, 8C, T/2, H/2, W/2), written with slices."""
    starts = itertools.product((0, 1), repeat=3)
    return np.concatenate([band[..., t::2, row::2, column::2] for t, row, column in starts], axis=1)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_one_level_of_space_and_time_is_pywavelets(wavelet: str) -> None:
    x = clip((8, 12, 16))
    bands = wavelet_bands(x, wavelet)
    low, details = build("dwt", (4, 6, 8), (8, 12, 16), wavelet=wavelet, domain="coefficients").decompose(x)
    assert details.shape == (2, 7 * 2, 4, 6, 8)
    close(low, bands["aaa"] / 2**1.5)
    close(details, np.concatenate([bands[name] for name in BANDS], axis=1))
    if wavelet in ("haar", "db2"):
        inverse = pywt.idwtn(bands | {"aaa": None}, wavelet, mode="periodization", axes=(2, 3, 4))
        close(build("dwt", (4, 6, 8), (8, 12, 16), wavelet=wavelet).decompose(x)[1], inverse)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_two_levels_of_space_and_time_are_pywavelets(wavelet: str) -> None:
    x = clip((8, 12, 16))
    fine = wavelet_bands(x, wavelet)
    coarse = pywt.dwtn(fine["aaa"], wavelet, mode="periodization", axes=(2, 3, 4))
    low, details = build("dwt", (2, 3, 4), (8, 12, 16), wavelet=wavelet, domain="coefficients").decompose(x)
    close(low, coarse["aaa"] / 8)
    expected = [*(coarse[name] for name in BANDS), *(space_to_depth(fine[name]) for name in BANDS)]
    close(details, np.concatenate(expected, axis=1))


@pytest.mark.parametrize("wavelet", ["haar", "sym4"])
def test_axes_that_stay_take_no_part_in_the_levels(wavelet: str) -> None:
    x = clip((8, 8, 12))
    in_time = wavelet_bands(x, wavelet, axes=(2,))
    sizes = ((4, 4, 6), (4, 8, 12), (8, 8, 12))
    low, of_space, of_time = build("dwt", *sizes, wavelet=wavelet, domain="coefficients").decompose(x)
    close(of_time, in_time["d"])
    in_space = pywt.dwt2(in_time["a"] / 2**0.5, wavelet, mode="periodization", axes=(3, 4))
    close(low, in_space[0] / 2)
    close(of_space, np.concatenate(in_space[1], axis=1))


@pytest.mark.parametrize("small", [(4, 8, 12), (5, 3, 11), (8, 8, 9)])
def test_whole_clip_cosine_low_pass_is_scipys(small: Size) -> None:
    x = clip((8, 16, 12))
    kept = tuple(slice(length) for length in small)
    spectrum = scipy.fft.dctn(x.numpy(), norm="ortho", axes=(2, 3, 4))[..., *kept]
    low, detail = build("dct", small, (8, 16, 12), time_grid="plain").decompose(x)
    gain = np.sqrt(np.prod(small) / x[0, 0].numel())
    close(low, gain * scipy.fft.idctn(spectrum, norm="ortho", axes=(2, 3, 4)))
    padded = np.zeros(x.shape)
    padded[..., *kept] = spectrum
    close(detail, x.numpy() - scipy.fft.idctn(padded, norm="ortho", axes=(2, 3, 4)))


def test_block_cosine_coefficients_in_space_and_time_are_scipys() -> None:
    x = clip((8, 12, 16))
    blocks = x.numpy().reshape(2, 2, 2, 4, 3, 4, 4, 4)
    spectrum = scipy.fft.dctn(blocks, norm="ortho", axes=(3, 5, 7))
    low, details = build("dct", (4, 6, 8), (8, 12, 16), block=4, domain="coefficients").decompose(x)
    assert low.shape == (2, 2 * 8, 2, 3, 4)
    assert details.shape == (2, 2 * 56, 2, 3, 4)
    close(low[:, :2], spectrum[..., 0, :, 0, :, 0] / 2**1.5)
    close(low[:, 2:4], spectrum[..., 0, :, 0, :, 1] / 2**1.5)
    close(details[:, :2], spectrum[..., 0, :, 0, :, 2])  # the lowest sums of frequencies outside of 2×2×2
    close(details[:, 4:6], spectrum[..., 2, :, 0, :, 0])
    close(details[:, -2:], spectrum[..., 3, :, 3, :, 3])
    preview = scipy.fft.idctn(spectrum[:, :, :, :2, :, :2, :, :2] / 2**1.5, norm="ortho", axes=(3, 5, 7))
    close(build("dct", (4, 6, 8), (8, 12, 16), block=4).decompose(x)[0], preview.reshape(2, 2, 4, 6, 8))


@pytest.mark.parametrize("small", [(4, 6, 8), (3, 12, 16), (5, 5, 15)])
def test_fourier_is_scipys_resample_along_every_axis(small: Size) -> None:
    x = clip((8, 12, 16))
    low, detail = build("fourier", small, (8, 12, 16), time_grid="plain").decompose(x)
    reference, enlarged = x.numpy(), None
    for axis, length in enumerate(small, start=2):
        reference = scipy.signal.resample(reference, length, axis=axis)
    close(low, reference)
    enlarged = reference
    for axis, length in enumerate((8, 12, 16), start=2):
        enlarged = scipy.signal.resample(enlarged, length, axis=axis)
    close(detail, x.numpy() - enlarged)


def along_time(x: Tensor, length: int, **how: Any) -> Tensor:
    """F.interpolate of every pixel's values in time."""
    pixels = x.permute(0, 1, 3, 4, 2).flatten(1, 3)
    return F.interpolate(pixels, length, **how).unflatten(1, (*x.shape[1:2], *x.shape[3:])).permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize("frames", [4, 2, 6, 5, 1])
def test_laplacian_in_time_alone_is_torch_in_one_dimension(frames: int) -> None:
    x = clip((8, 6, 4))
    sizes = ((frames, 6, 4), (8, 6, 4))
    low, detail = build("laplacian", *sizes, time_grid="plain").decompose(x)
    close(low, along_time(x, frames, mode="area"))
    close(detail, x - along_time(low, 8, mode="linear"))
    low, detail = build("laplacian", *sizes, up="nearest", time_grid="plain").decompose(x)
    close(detail, x - along_time(low, 8, mode="nearest"))


def test_laplacian_of_clips_is_torch_in_three_dimensions() -> None:
    x = clip((8, 12, 16))
    low, detail = build("laplacian", (4, 6, 4), (8, 12, 16)).decompose(x)
    close(low, F.adaptive_avg_pool3d(x, (4, 6, 4)))
    close(detail, x - F.interpolate(low, (8, 12, 16), mode="trilinear"))


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "gaussian"])
def test_laplacian_treats_time_as_it_treats_height(name: str) -> None:
    x = clip((8, 12, 16))
    ours = build("laplacian", (4, 6, 16), (8, 12, 16), filter=name).decompose(x)
    turned = build("laplacian", (6, 4, 16), (12, 8, 16), filter=name).decompose(x.transpose(2, 3))
    for one, other in zip(ours, turned, strict=True):
        close(one, other.transpose(2, 3))


SETTINGS: list[tuple[str, dict[str, object]]] = [
    ("laplacian", {}),
    ("laplacian", {"filter": "bicubic"}),
    ("laplacian", {"filter": "gaussian"}),
    ("dwt", {"wavelet": "db2"}),
    ("dct", {}),
    ("dct", {"block": 4}),
    ("fourier", {}),
]
IN_COEFFICIENTS: list[tuple[str, dict[str, object]]] = [
    ("dwt", {"wavelet": "db2", "domain": "coefficients"}),
    ("dct", {"block": 4, "domain": "coefficients"}),
]


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=str)
def test_a_causal_clip_is_its_first_frame_and_a_plain_clip(name: str, options: dict[str, object]) -> None:
    x = clip((9, 8, 16))
    stages = build(name, (5, 4, 8), (9, 8, 16), **options).decompose(x)
    first = build(name, (4, 8), (8, 16), **options).decompose(x[:, :, 0])
    others = build(name, (4, 4, 8), (8, 8, 16), **options).decompose(x[:, :, 1:])
    for stage, picture, rest in zip(stages, first, others, strict=True):
        assert torch.equal(stage, torch.cat([picture[:, :, None], rest], dim=2))


@pytest.mark.parametrize(("name", "options"), [*SETTINGS, *IN_COEFFICIENTS], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_with_equal_frame_counts_each_frame_is_an_image(
    name: str, options: dict[str, object], dtype: torch.dtype
) -> None:
    x = clip((3, 8, 16)).to(dtype)
    together = build(name, (3, 4, 8), (3, 8, 16), **options)
    stages: Stages = together.decompose(x)
    images = build(name, (4, 8), (8, 16), **options)
    for frame in range(3):
        alone = images.decompose(x[:, :, frame])
        for stage, image in zip(stages, alone, strict=True):
            torch.testing.assert_close(stage[:, :, frame], image, rtol=0, atol=1e-6)
    assert all(stage.is_contiguous() for stage in stages)
    close(together.recompose(stages), x, 1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(
    ("name", "options", "frames"),
    [
        ("dwt", {"wavelet": "haar"}, (4, 8)),
        ("dwt", {"wavelet": "db2"}, (2, 4, 8)),
        ("dwt", {"wavelet": "sym4", "domain": "coefficients"}, (4, 8)),
        ("fourier", {}, (2, 4, 8)),
    ],
    ids=str,
)
def test_a_translation_by_a_coarse_frame_turns_the_stages(
    name: str, options: dict[str, object], frames: tuple[int, ...]
) -> None:
    x = clip((8, 16, 16))
    transform = build(name, *((count, 2 * count, 2 * count) for count in frames), **options)
    coarse = frames[0]
    stages, moved = transform.decompose(x), transform.decompose(x.roll(8 // coarse, dims=2))
    for stage, other in zip(stages, moved, strict=True):
        close(other, stage.roll(stage.shape[2] // coarse, dims=2))


@pytest.mark.parametrize(("name", "options"), [*SETTINGS, *IN_COEFFICIENTS], ids=str)
@pytest.mark.parametrize("sizes", [((4, 4, 8), (8, 8, 16)), ((5, 4, 8), (9, 8, 16))], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_clips_and_single_frames_come_back_and_constants_stay(
    name: str, options: dict[str, object], sizes: tuple[Size, ...], dtype: torch.dtype
) -> None:
    causal = sizes[0][0] == 5
    if causal and "domain" in options:
        pytest.skip("refused")
    transform = build(name, *sizes, **options)
    for frames in (sizes[-1][0], 1, 17) if causal else (8, 16):
        x = clip((frames, 16, 32)).to(dtype)
        stages = transform.decompose(x)
        close(transform.recompose(stages), x, 5e-6 if dtype == torch.float32 else 1e-12)
        assert stages[0].shape[2] <= 1 + frames // 2
        constant = transform.decompose(torch.full_like(x, 0.3))
        preview = transform.recompose(constant[:1])
        assert preview.shape[2:] == (frames // 2 + causal * (frames % 2), 8, 16)
        close(preview, torch.full_like(preview, 0.3), 1e-6 if dtype == torch.float32 else 1e-12)


def test_one_frame_of_blocks_in_time() -> None:
    transform = build("dct", (5, 6, 6), (9, 6, 6), block=4)
    frame = clip((1, 6, 6))
    low, detail = transform.decompose(frame)
    assert torch.equal(low, frame)
    assert not detail.any()
    close(transform.recompose(transform.decompose(clip((9, 6, 6)))), clip((9, 6, 6)))


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=str)
def test_half_precision_clips_are_computed_in_single(name: str, options: dict[str, object]) -> None:
    x = clip((9, 8, 16)).to(torch.bfloat16)
    transform = build(name, (5, 4, 8), (9, 8, 16), **options)
    for half, single in zip(transform.decompose(x), transform.decompose(x.float()), strict=True):
        assert torch.equal(half, single.bfloat16())


def test_downsampled_clips_are_means_over_areas_and_times() -> None:
    x = clip((5, 8, 12))
    stages = build("downsampled", (3, 4, 6), (3, 8, 12), (5, 8, 12)).decompose(x)
    means = F.avg_pool3d(x[:, :, 1:], (2, 1, 1))
    close(stages[1], torch.cat([x[:, :, :1], means], dim=2))
    close(stages[0], F.avg_pool3d(stages[1], (1, 2, 2)))
    assert torch.equal(stages[2], x)
