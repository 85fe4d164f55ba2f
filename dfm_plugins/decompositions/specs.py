"""What the built-in decompositions are called, take and declare. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dfm_core.plugins import DecompositionSpec, Options, TimeGrid

Domain = Literal["spatial", "coefficients"]


MEDIA = frozenset({"image", "video"})


class FourierOptions(Options):
    """Options of `fourier`."""

    time_grid: TimeGrid = "auto"


class DownsampledOptions(Options):
    """Options of `downsampled`."""

    time_grid: TimeGrid = "auto"


class LaplacianOptions(Options):
    """Options of `laplacian`."""

    filter: Literal["area", "bilinear", "bicubic", "gaussian"] = Field(
        "area",
        description="How to shrink: area average, antialiased bilinear or bicubic, or Gaussian blur and subsampling.",
    )
    up: Literal["bilinear", "bicubic", "nearest"] | None = Field(
        None, description="How to enlarge. Default: bicubic for the filter bicubic, else bilinear."
    )
    time_grid: TimeGrid = "auto"


class WaveletOptions(Options):
    """Options of `dwt`."""

    wavelet: str = Field("haar", description="Discrete wavelet of PyWavelets: haar, db2, sym4, bior2.2, coif1 …")
    domain: Domain = Field(
        "spatial",
        description="spatial: a stage is the image of its details. coefficients: the detail bands stacked as channels.",
    )
    time_grid: TimeGrid = "auto"

    @property
    def wavelet_family(self) -> Literal["orthogonal", "biorthogonal", "approximate"]:
        """Whether synthesis is the transpose of analysis: dmey's is so only to 3e-2."""
        if self.wavelet == "dmey":
            return "approximate"
        return "biorthogonal" if self.wavelet.startswith(("bior", "rbio")) else "orthogonal"


class CosineOptions(Options):
    """Options of `dct`."""

    block: Literal[4, 8] | None = Field(
        None,
        description="Transform blocks of this size; stages are then n/block of the finest. Default: whole image.",
    )
    domain: Domain = Field(
        "spatial",
        description="spatial: a stage is the image of its frequencies. coefficients (needs block): they are channels.",
    )
    time_grid: TimeGrid = "auto"

    @model_validator(mode="after")
    def _coefficients_need_blocks(self) -> CosineOptions:
        if self.domain == "coefficients" and self.block is None:
            raise ValueError(
                "domain=coefficients needs block=4 or block=8: the whole image's frequencies are no picture"
            )
        return self


SPECS = [
    DecompositionSpec(
        name="identity",
        summary="One stage, the data itself: plain Flow Matching.",
        factory="dfm_plugins.decompositions.identity:Identity",
        reference="Decomposable Flow Matching, the baseline of every table",
        linear=True,
        orthonormal=True,
        critically_sampled=True,
        zero_mean_details=True,
        media=MEDIA,
        several_stages=False,
    ),
    DecompositionSpec(
        name="laplacian",
        summary="Laplacian pyramid: each stage adds what the enlarged coarser one misses; any ratio.",
        factory="dfm_plugins.decompositions.laplacian:Laplacian",
        options=LaplacianOptions,
        reference="Decomposable Flow Matching, eq. 2; Burt and Adelson, The Laplacian Pyramid, 1983",
        linear=True,
        zero_mean_details=True,
        media=MEDIA,
    ),
    DecompositionSpec(
        name="dwt",
        summary="Wavelet transform, periodised: images or sub-bands; ratios 2, 4, 8 …",
        factory="dfm_plugins.decompositions.dwt:WaveletTransform",
        options=WaveletOptions,
        reference="Mallat, A Theory for Multiresolution Signal Decomposition, 1989; filters of PyWavelets",
        linear=True,
        orthonormal={"domain": "coefficients", "wavelet_family": "orthogonal"},
        critically_sampled={"domain": "coefficients"},
        zero_mean_details=True,
        media=MEDIA,
    ),
    DecompositionSpec(
        name="dct",
        summary="Cosine transform of the whole image (any ratio) or of blocks of 4 or 8.",
        factory="dfm_plugins.decompositions.dct:CosineTransform",
        options=CosineOptions,
        reference="Ahmed, Natarajan and Rao, Discrete Cosine Transform, 1974",
        linear=True,
        orthonormal={"domain": "coefficients"},
        critically_sampled={"domain": "coefficients"},
        zero_mean_details=True,
        media=MEDIA,
    ),
    DecompositionSpec(
        name="fourier",
        summary="Ideal low-passes by FFT, periodic at the borders; any ratio.",
        factory="dfm_plugins.decompositions.fourier:FourierTransform",
        options=FourierOptions,
        reference="Decomposable Flow Matching, section 3; as scipy.signal.resample",
        linear=True,
        zero_mean_details=True,
        media=MEDIA,
    ),
    DecompositionSpec(
        name="downsampled",
        summary="The picture or clip at every size, no residuals: what cascaded models and Pyramidal Flow generate.",
        factory="dfm_plugins.decompositions.downsampled:Downsampled",
        options=DownsampledOptions,
        reference="Ho et al. 2022, Cascaded Diffusion Models; Jin et al. 2024, Pyramidal Flow Matching",
        linear=True,
        media=MEDIA,
    ),
]
