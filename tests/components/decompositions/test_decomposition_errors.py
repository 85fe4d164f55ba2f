"""Sizes and options that a decomposition refuses, and what it says would work."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import pywt
import torch
from pydantic import ValidationError

from dfm_core.errors import ConfigError, StageShapeError, StageSizeError, UsageError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.plugins import Options
from dfm_core.stages import Size
from dfm_plugins.decompositions import dct, dwt, fourier, identity, laplacian
from dfm_plugins.decompositions.specs import SPECS, CosineOptions, LaplacianOptions, WaveletOptions


def facts(*sizes: int | Size) -> DecompositionFacts:
    return DecompositionFacts(tuple((size, size) if isinstance(size, int) else size for size in sizes), 3)


def test_identity_has_one_stage() -> None:
    with pytest.raises(StageSizeError, match=r"identity has one stage, got 16, 32: use the one stage 32"):
        identity.Identity(Options(), facts(16, 32))


@pytest.mark.parametrize(
    ("sizes", "would_work"),
    [
        ((48, 64), "32, 64"),
        ((16, 50), "12, 48"),
        ((45, 90, 181), "45, 90, 180"),
        ((10, 64), "8, 64"),
        (((16, 24), (32, 96)), "16x48, 32x96"),
        ((1, 3), "1, 4"),
    ],
    ids=str,
)
def test_wavelets_need_powers_of_two(sizes: tuple[int | Size, ...], would_work: str) -> None:
    with pytest.raises(StageSizeError, match=f"nearest that work: {would_work}$"):
        dwt.WaveletTransform(WaveletOptions.model_validate({}), facts(*sizes))


@pytest.mark.parametrize("sizes", [(16, 30, 64), (8, 66), ((16, 16), (32, 64))], ids=str)
def test_cosine_blocks_need_nths(sizes: tuple[int | Size, ...]) -> None:
    with pytest.raises(StageSizeError, match=r"n/4 of the finest, n = 1…4.*would work: \d") as raised:
        dct.CosineTransform(CosineOptions.model_validate({"block": 4}), facts(*sizes))
    offered = re.search(r"would work: (.*) \(", str(raised.value))
    assert offered is not None
    lengths = [tuple(map(int, size.split("x"))) for size in offered[1].split(", ")]
    dct.CosineTransform(
        CosineOptions.model_validate({"block": 4}), facts(*(size * 2 if len(size) == 1 else size for size in lengths))
    )


def test_whole_image_cosines_and_the_others_take_any_ratio() -> None:
    for component in (
        dct.CosineTransform(CosineOptions.model_validate({}), facts(17, 64)),
        fourier.FourierTransform(Options(), facts(17, 64)),
        laplacian.Laplacian(LaplacianOptions.model_validate({"filter": "gaussian"}), facts(17, 64)),
    ):
        assert component.layout((3, 128, 192))[0].resolution == (34, 51)
        with pytest.raises(StageShapeError, match="17 of 64 is not a whole size"):
            component.layout((3, 100, 64))


def test_inputs_that_blocks_do_not_fill_are_refused() -> None:
    component = dct.CosineTransform(CosineOptions.model_validate({"block": 4}), facts(16, 32))
    with pytest.raises(StageShapeError, match="blocks of 4: input of size 34 is not divisible"):
        component.decompose(torch.zeros(1, 3, 34, 34))


def test_a_wavelet_with_a_typing_error_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no discrete wavelet 'haarr'.*Did you mean 'haar'"):
        dwt.WaveletTransform(WaveletOptions.model_validate({"wavelet": "haarr"}), facts(16, 32))
    with pytest.raises(ConfigError, match="no discrete wavelet 'morl'"):  # a continuous one
        dwt.WaveletTransform(WaveletOptions.model_validate({"wavelet": "morl"}), facts(16, 32))


def test_dmey_is_refused_in_the_coefficient_domain_only() -> None:
    dwt.WaveletTransform(WaveletOptions.model_validate({"wavelet": "dmey"}), facts(16, 32))
    with pytest.raises(ConfigError, match="dmey does not reconstruct in the coefficient domain.*domain=spatial"):
        dwt.WaveletTransform(
            WaveletOptions.model_validate({"wavelet": "dmey", "domain": "coefficients"}), facts(16, 32)
        )


def test_every_other_discrete_wavelet_works_and_its_family_is_pywavelets() -> None:
    for wavelet in pywt.wavelist(kind="discrete"):
        if wavelet != "dmey":
            options = WaveletOptions.model_validate({"wavelet": wavelet, "domain": "coefficients"})
            dwt.WaveletTransform(options, facts(16, 32))
            assert (options.wavelet_family == "orthogonal") == pywt.Wavelet(wavelet).orthogonal


def test_coefficients_of_the_whole_image_are_refused() -> None:
    with pytest.raises(ValidationError, match="domain=coefficients needs block=4 or block=8"):
        CosineOptions.model_validate({"domain": "coefficients"})
    with pytest.raises(ValidationError):
        CosineOptions.model_validate({"block": 5})


def test_laplacian_splits_images_and_clips_only() -> None:
    with pytest.raises(StageSizeError, match="height x width or frames x height x width, got 8, 16"):
        laplacian.Laplacian(LaplacianOptions.model_validate({}), facts((8,), (16,)))


@pytest.mark.parametrize(
    ("sizes", "time_grid", "would_work"),
    [
        (((5, 8, 8), (8, 16, 16)), "auto", "4x8x8, 8x16x16"),
        (((5, 8, 8), (9, 16, 16)), "plain", "4x8x8, 8x16x16"),
        (((4, 8, 8), (8, 16, 16)), "causal", "5x8x8, 9x16x16"),
        (((4, 8, 8), (8, 32, 32)), "auto", "2x8x8, 8x32x32"),
        (((7, 10, 16), (7, 16, 32)), "auto", "7x8x16, 7x16x32"),
        (((3, 16, 16), (8, 16, 16)), "auto", "4x16x16, 8x16x16"),
    ],
    ids=str,
)
def test_wavelets_of_clips_need_one_power_of_two(sizes: tuple[Size, ...], time_grid: str, would_work: str) -> None:
    options = WaveletOptions.model_validate({"time_grid": time_grid})
    with pytest.raises(StageSizeError, match=f"those that change, got .*; the nearest that work: {would_work}$"):
        dwt.WaveletTransform(options, facts(*sizes))
    lengths = [tuple(map(int, size.split("x"))) for size in would_work.split(", ")]
    dwt.WaveletTransform(options, facts(*lengths))


@pytest.mark.parametrize(
    ("sizes", "would_work"),
    [
        (((2, 16, 16), (8, 32, 32)), "2x8x8, 4x16x16, 6x24x24, 8x32x32"),
        (((5, 16, 16), (5, 30, 32)), "5x8x8, 5x16x16, 5x24x24, 5x32x32"),
        (((4, 16, 16), (9, 32, 32)), "2x8x8, 4x16x16, 6x24x24, 8x32x32"),
        (((3, 6, 6), (9, 32, 32)), "2x8x8, 4x16x16, 6x24x24, 8x32x32"),
        (((6, 8, 8), (11, 32, 32)), "3x8x8, 5x16x16, 7x24x24, 9x32x32"),
    ],
    ids=str,
)
def test_cosine_blocks_of_clips_need_one_number_of_nths(sizes: tuple[Size, ...], would_work: str) -> None:
    with pytest.raises(StageSizeError, match=f"one n along the axes that change, got .*would work: {would_work} "):
        dct.CosineTransform(CosineOptions.model_validate({"block": 4}), facts(*sizes))


def test_clips_that_blocks_do_not_fill_are_refused() -> None:
    component = dct.CosineTransform(CosineOptions.model_validate({"block": 4}), facts((5, 16, 16), (9, 32, 32)))
    assert component.layout((3, 13, 32, 32))[0].resolution == (7, 16, 16)
    with pytest.raises(StageShapeError, match="blocks of 4: input of size 11x32x32 is not divisible"):
        component.decompose(torch.zeros(1, 3, 11, 32, 32))


@pytest.mark.parametrize("sizes", [((3, 8, 8), (5, 16, 16)), ((3, 8, 8), (5, 8, 8))], ids=str)
def test_coefficients_on_a_causal_time_grid_are_refused(sizes: tuple[Size, ...]) -> None:
    message = (
        "causal time grid the coefficients of the first frame do not fit.*domain=spatial, frame counts that divide"
    )
    with pytest.raises(StageSizeError, match=message):
        dwt.WaveletTransform(WaveletOptions.model_validate({"domain": "coefficients"}), facts(*sizes))
    cosines = CosineOptions.model_validate({"domain": "coefficients", "block": 4, "time_grid": "causal"})
    with pytest.raises(StageSizeError, match=message):
        dct.CosineTransform(cosines, facts((3, 8, 8), (5, 16, 16)))
    dct.CosineTransform(cosines, facts((5, 8, 8), (5, 16, 16)))  # each frame on its own


def test_such_errors_exit_with_2() -> None:
    assert issubclass(StageSizeError, UsageError)
    assert StageSizeError.exit_code == ConfigError.exit_code == 2


def test_options_and_facts_share_no_name_and_every_option_is_described() -> None:
    for spec in SPECS:
        fields = spec.options.model_fields
        assert not {"stage_sizes", "channels"} & set(fields)
        assert all(field.description for field in fields.values())


def test_specs_import_no_torch() -> None:
    code = "import sys, dfm_plugins.decompositions.specs; sys.exit('torch' in sys.modules or 'pywt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
