"""The metrics that ship: names, addresses and options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dfm_core.plugins import MetricSpec, Options
from dfm_plugins.datasets.specs import absolute

Path = Annotated[str, AfterValidator(absolute)]
FEW_RESAMPLES, MANY_RESAMPLES = 20, 200


class SwdOptions(Options):
    """Options of `swd`."""

    patches: int = Field(default=128, ge=1, description="Patches of each image and level.")
    directions: int = Field(default=512, ge=1, description="Random directions on which patches are projected.")
    images: int | None = Field(default=2048, ge=2, description="Most images of either set; null: all (much memory).")
    seed: int = Field(default=0, ge=0, description="Seed of places and directions.")


class SpectrumOptions(Options):
    """Options of `spectrum`."""

    bands: int = Field(default=4, ge=1, le=8, description="Octaves of frequency; the lowest holds all below.")
    resamples: int = Field(default=MANY_RESAMPLES, ge=0, description="Bootstrap samples of the interval.")


class MotionOptions(Options):
    """Options of `motion`."""

    resamples: int = Field(default=MANY_RESAMPLES, ge=0, description="Bootstrap samples of the interval.")


class ClassifierOptions(Options):
    """How the small classifier is made."""

    steps: int = Field(default=400, ge=1, description="Training steps of the classifier.")
    training_images: int = Field(
        default=4096, ge=2, description="Most reference images that the classifier is trained and tested on."
    )
    resolution: int = Field(default=64, ge=8, description="Longer images are shrunk to this short side first.")
    seed: int = Field(default=0, ge=0, description="Seed of the classifier's weights and batches.")


class FrechetOptions(Options):
    """What every Fréchet distance has."""

    resamples: int = Field(default=FEW_RESAMPLES, ge=0, description="Bootstrap samples of the interval.")


class ClassifierFrechetOptions(ClassifierOptions):
    """Options of `fd`."""

    resamples: int = Field(default=MANY_RESAMPLES, ge=0, description="Bootstrap samples of the interval.")


class InceptionOptions(Options):
    """The network behind FID and IS."""

    path: Path = Field(description="Weights of the FID Inception: a state dict as .safetensors or .pth.")
    resize: Literal["tensorflow", "pytorch"] = Field(
        default="tensorflow", description="To 299×299 as the original graph did it, or as pytorch-fid does."
    )


class FidOptions(InceptionOptions, FrechetOptions):
    """Options of `fid`."""


class FrameFidOptions(FidOptions):
    """Options of `frame_fid`."""

    frames: int | None = Field(
        default=None, ge=1, description="Most frames of a clip, at equal distances; null: all of them."
    )


class FvdOptions(FrechetOptions):
    """Options of `fvd`."""

    path: Path = Field(
        description="Weights of I3D, a state dict as .safetensors or .pth; of VideoMAE the folder that transformers "
        "has saved."
    )
    network: Literal["i3d", "videomae"] = Field(default="i3d", description="Whose features.")
    features: Literal["logits", "pooled"] = Field(
        default="logits", description="Of I3D: the 400 logits, as in the paper, or the 1024 features before them."
    )
    resize: Literal["tensorflow", "pytorch"] = Field(
        default="tensorflow", description="Of I3D: to 224×224 as the original code did it, or as ports to PyTorch do."
    )

    @model_validator(mode="after")
    def _options_are_of_the_network(self) -> FvdOptions:
        given = sorted({"features", "resize"} & self.model_fields_set)
        if self.network == "videomae" and given:
            raise ValueError(f"{given[0]}: this is an option of i3d; leave it out with network videomae")
        return self


class InceptionScoreOptions(InceptionOptions):
    """Options of `is`."""

    splits: int = Field(default=10, ge=1, description="Parts of the samples whose scores are averaged.")
    resamples: int = Field(default=FEW_RESAMPLES, ge=0, description="Bootstrap samples of the interval.")


class FddOptions(FrechetOptions):
    """Options of `fdd`."""

    path: Path = Field(description="Folder of a DINOv2 model that transformers has saved.")
    resolution: int = Field(default=224, ge=14, description="Size to which images are resized.")


class PrecisionRecallOptions(ClassifierOptions):
    """Options of `precision_recall`; those of the classifier matter where it is the network."""

    network: Literal["classifier", "inception", "dinov2", "i3d", "videomae"] = Field(
        default="classifier",
        description="Whose features: as of `fd`; of images, as of `fid` or `fdd`, of clips as of `fvd`, with the "
        "defaults of those.",
    )
    path: Path | None = Field(default=None, description="Weights of the network, where it has a file.")
    neighbours: int = Field(default=3, ge=1, description="The k-th neighbour is a ball's radius.")
    images: int | None = Field(default=10_000, ge=2, description="Most images of either set; null: all.")

    @model_validator(mode="after")
    def _network_has_weights(self) -> PrecisionRecallOptions:
        if (self.path is None) != (self.network == "classifier"):
            raise ValueError(
                f"network: {self.network} needs a path to its weights"
                if self.path is None
                else "path: the classifier is trained on the reference and has no file; leave it out"
            )
        return self


class ClipOptions(Options):
    """Options of `clip_similarity`."""

    path: Path = Field(description="Folder of a CLIP model that transformers has saved, with its tokenizer.")
    prompt: str = Field(default="a photo of a {}", description="Text of a class; {} is its name.")
    resamples: int = Field(default=MANY_RESAMPLES, ge=0, description="Bootstrap samples of the interval.")

    @model_validator(mode="after")
    def _prompt_has_a_place(self) -> ClipOptions:
        if self.prompt.count("{}") != 1:
            raise ValueError(f"prompt: expected a text with one {{}} for the name of the class, got {self.prompt!r}")
        return self


_FID = "Heusel et al. 2017, arXiv:1706.08500"
_BOTH, _CLIPS = frozenset({"image", "video"}), frozenset({"video"})

SPECS = [
    MetricSpec(
        name="swd",
        summary="Sliced Wasserstein distance of patches, at every level of a Laplacian pyramid; needs no weights.",
        factory="dfm_plugins.metrics.swd:SlicedWassersteinDistance",
        options=SwdOptions,
        reference="Karras et al. 2018, arXiv:1710.10196, section 5",
        by_default=True,
        media=_BOTH,
    ),
    MetricSpec(
        name="spectrum",
        summary="Difference of the power spectra in decibels, band by band; needs no weights.",
        factory="dfm_plugins.metrics.spectrum:SpectrumDistance",
        options=SpectrumOptions,
        by_default=True,
        media=_BOTH,
    ),
    MetricSpec(
        name="fd",
        summary="Fréchet distance of features of a small classifier, trained on the reference; needs no weights.",
        factory="dfm_plugins.metrics.classifier:ClassifierFrechetDistance",
        options=ClassifierFrechetOptions,
        reference=f"The distance of FID ({_FID}); without labels, the classifier of Gidaris et al. 2018",
        by_default=True,
        media=_BOTH,
    ),
    MetricSpec(
        name="motion",
        summary="Difference in how much clips change from frame to frame, in decibels; needs no weights.",
        factory="dfm_plugins.metrics.motion:MotionDistance",
        options=MotionOptions,
        by_default=True,
        media=_CLIPS,
    ),
    MetricSpec(
        name="fid",
        summary="Fréchet distance of Inception features.",
        factory="dfm_plugins.metrics.inception:FrechetInceptionDistance",
        options=FidOptions,
        reference=_FID,
    ),
    MetricSpec(
        name="frame_fid",
        summary="Fréchet distance of Inception features of the frames of clips.",
        factory="dfm_plugins.metrics.inception:FrameFrechetInceptionDistance",
        options=FrameFidOptions,
        reference=_FID,
        media=_CLIPS,
    ),
    MetricSpec(
        name="fvd",
        summary="Fréchet distance of features of whole clips, of I3D or VideoMAE.",
        factory="dfm_plugins.metrics.fvd:FrechetVideoDistance",
        options=FvdOptions,
        reference="Unterthiner et al. 2018, arXiv:1812.01717; with VideoMAE, Ge et al. 2024, arXiv:2404.12391",
        media=_CLIPS,
    ),
    MetricSpec(
        name="is",
        summary="Inception score: sure about each image, and various over all.",
        factory="dfm_plugins.metrics.inception:InceptionScore",
        options=InceptionScoreOptions,
        reference="Salimans et al. 2016, arXiv:1606.03498",
        compares=False,
    ),
    MetricSpec(
        name="fdd",
        summary="Fréchet distance of DINOv2 features.",
        factory="dfm_plugins.metrics.dinov2:FrechetDinoDistance",
        options=FddOptions,
        reference="Stein et al. 2023, arXiv:2306.04675",
    ),
    MetricSpec(
        name="precision_recall",
        summary="Share of samples that look real, and of real images that samples come near.",
        factory="dfm_plugins.metrics.precision_recall:PrecisionRecall",
        options=PrecisionRecallOptions,
        reference="Kynkäänniemi et al. 2019, arXiv:1904.06991",
        media=_BOTH,
    ),
    MetricSpec(
        name="clip_similarity",
        summary="100 × cosine between an image and the name of its class.",
        factory="dfm_plugins.metrics.clip:ClipSimilarity",
        options=ClipOptions,
        reference="Hessel et al. 2021, arXiv:2104.08718, without its factor and its cut at 0",
        compares=False,
    ),
]
