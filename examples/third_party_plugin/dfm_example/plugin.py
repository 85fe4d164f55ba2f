"""The plugin: names, options and addresses of its components. Imports no torch, so that listing it costs nothing.

The entry point in pyproject.toml names this module. A component's own module is imported when the component is used.
"""

from __future__ import annotations

from typing import Annotated

from dfm_core.plugins import (
    AutoencoderSpec,
    BackboneSpec,
    DatasetSpec,
    DecompositionSpec,
    MetricSpec,
    Options,
    PathSpec,
    StageScheduleSpec,
    TimestepSamplerSpec,
    hookimpl,
)
from pydantic import BeforeValidator, Field, model_validator

DFM_PLUGIN_API = 1


def listed(value: object) -> object:
    """Read a text with commas, as the command line gives it, as a list: "10,5" -> ["10", "5"]."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Count = Annotated[int, Field(ge=1)]
Counts = Annotated[Count | tuple[Count, ...], BeforeValidator(listed)]
# What Pillow's built-in font can draw.
Word = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=20)]
Words = Annotated[tuple[Word, ...], BeforeValidator(listed)]


class SteerableOptions(Options):
    """Options of `example/steerable`."""

    orientations: int = Field(3, ge=1, le=16, description="Oriented bands a stage; each holds the data's channels.")


class UNetOptions(Options):
    """Options of `example/unet`."""

    width: int = Field(
        32,
        ge=16,
        multiple_of=16,
        description="Features at the finest resolution, twice the stages' channels at least; up to 4× deeper.",
    )
    smallest: int = Field(8, ge=1, description="Below the coarsest stage, halve until the short side is this or less.")


class CosineOptions(Options):
    """Options of `example/cosine`."""

    steps: Counts = Field(
        20, description="Solver steps from a stage's start to its end; one number for all stages or one for each."
    )
    overlap: float = Field(
        0.2, ge=0, lt=1, description="Share of a stage's steps in which the next one runs beside it; 0.2 is t = 0.9."
    )


class BetaOptions(Options):
    """Options of `example/beta`."""

    first_stage: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="Probability that only the first stage is active; the other numbers share the rest.",
    )
    alpha: Count = Field(2, description="α of the newest active stage's t ~ Beta(α, β); more of it is cleaner.")
    beta: Count = Field(2, description="β of the newest active stage's t; more of it is noisier.")
    earlier_alpha: Count = Field(6, description="α of the earlier stages' t.")
    earlier_beta: Count = Field(1, description="β of the earlier stages' t.")

    @model_validator(mode="after")
    def _earlier_stages_are_cleaner(self) -> BetaOptions:
        # The mean of Beta(α, β) is α / (α + β). The spec below promises this order.
        if self.earlier_alpha * self.beta <= self.alpha * self.earlier_beta:
            raise ValueError(
                f"Beta({self.earlier_alpha}, {self.earlier_beta}) for the earlier stages must have a higher mean than "
                f"Beta({self.alpha}, {self.beta}): raise earlier_alpha"
            )
        return self


class OrthogonalOptions(Options):
    """Options of `example/orthogonal`."""

    patch: int = Field(2, ge=1, description="Edge of the patches that become one latent each.")
    seed: int = Field(0, ge=0, description="Of the random rotation. Another seed is another latent space.")


class KernelDistanceOptions(Options):
    """Options of `example/kernel_distance`."""

    side: int = Field(8, ge=1, le=64, description="Height and width to which images are shrunk.")
    images: int | None = Field(5_000, ge=2, description="Most images of either set; null: all.")


class TextOptions(Options):
    """Options of `example/text`."""

    words: Words = Field(tuple("ABCDEFGH"), min_length=1, description="What is written: one class a word.")
    train_images: Count = Field(100_000, description="Images of the training split; each epoch writes them anew.")
    validation_images: int = Field(1_000, ge=0, description="Images of the validation split; every epoch the same.")

    @model_validator(mode="after")
    def _words_differ(self) -> TextOptions:
        twice = sorted({word for word in self.words if self.words.count(word) > 1})
        if twice:
            raise ValueError(f"expected different words, one a class; more than once: {', '.join(twice)}")
        return self


@hookimpl
def dfm_decompositions() -> list[DecompositionSpec]:
    """List the decompositions."""
    return [
        DecompositionSpec(
            name="steerable",
            summary="Steerable pyramid: each stage holds the details of one octave or more, one band an orientation.",
            factory="dfm_example.steerable:Steerable",
            options=SteerableOptions,
            reference="Simoncelli and Freeman 1995; Portilla and Simoncelli 2000",
            linear=True,
            zero_mean_details=True,
        )
    ]


@hookimpl
def dfm_backbones() -> list[BackboneSpec]:
    """List the backbones."""
    return [
        BackboneSpec(
            name="unet",
            summary="Convolutional U-Net: every stage enters, and leaves, at its own resolution.",
            factory="dfm_example.unet:UNet",
            options=UNetOptions,
            reference="Ronneberger et al. 2015; blocks after Dhariwal and Nichol 2021",
        )
    ]


@hookimpl
def dfm_stage_schedules() -> list[StageScheduleSpec]:
    """List the stage schedules."""
    return [
        StageScheduleSpec(
            name="cosine",
            summary="A relay: each stage runs its own steps along half a cosine; the next sets off before it ends.",
            factory="dfm_example.cosine:CosineSchedule",
            options=CosineOptions,
            reference="spacing after Nichol and Dhariwal 2021; the relay is this package's",
            progressive=True,
        )
    ]


@hookimpl
def dfm_timestep_samplers() -> list[TimestepSamplerSpec]:
    """List the timestep samplers."""
    return [
        TimestepSamplerSpec(
            name="beta",
            summary="Beta-distributed t: around the middle for the newest active stage, near the data for the others.",
            factory="dfm_example.beta:BetaSampler",
            options=BetaOptions,
            reference="Beta timesteps after Black et al. 2024 (π0); drawn as order statistics of uniforms",
            earlier_cleaner=True,
        )
    ]


@hookimpl
def dfm_autoencoders() -> list[AutoencoderSpec]:
    """List the autoencoders."""
    return [
        AutoencoderSpec(
            name="orthogonal",
            summary="Patches as channels, turned by a fixed random rotation; decoding turns them back.",
            factory="dfm_example.orthogonal:Orthogonal",
            options=OrthogonalOptions,
            reference="QR of a Gaussian matrix: Mezzadri 2007",
        )
    ]


@hookimpl
def dfm_paths() -> list[PathSpec]:
    """List the paths."""
    return [
        PathSpec(
            name="trigonometric",
            summary="A quarter of a circle from noise to data: stages of variance 1 keep it all the way.",
            factory="dfm_example.trigonometric:Trigonometric",
            reference="Albergo and Vanden-Eijnden 2023, Stochastic Interpolants",
        )
    ]


@hookimpl
def dfm_metrics() -> list[MetricSpec]:
    """List the metrics."""
    return [
        MetricSpec(
            name="kernel_distance",
            summary="Kernel distance (MMD) of shrunken images; around 0 for two draws from one source.",
            factory="dfm_example.kernel_distance:KernelDistance",
            options=KernelDistanceOptions,
            reference="Gretton et al. 2012; kernel and estimator of KID, Bińkowski et al. 2018",
        )
    ]


@hookimpl
def dfm_datasets() -> list[DatasetSpec]:
    """List the data sets."""
    return [
        DatasetSpec(
            name="text",
            summary="Letters or words of your choice, rendered in random colours, sizes and places.",
            factory="dfm_example.text:Text",
            options=TextOptions,
            reference="the font that Pillow brings along",
        )
    ]
