"""The autoencoders that ship: names, addresses and options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dfm_core.plugins import AutoencoderSpec, Options
from dfm_plugins.datasets.specs import absolute


class DiffusersOptions(Options):
    """Options of `diffusers`."""

    places = frozenset({"path"})

    path: Annotated[str, AfterValidator(absolute)] = Field(
        description="Folder of the model, with config.json and safetensors weights (the folder `vae` of a pipeline)."
    )
    posterior: Literal["mean", "sample"] = Field(
        default="mean", description="Train on the mean of an image's distribution, or draw from it at every step."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Type that the model computes in."
    )
    slicing: bool = Field(default=False, description="One image at a time: less memory.")
    tiling: bool = Field(
        default=False, description="Overlapping tiles, blended: less memory for large images, slightly other values."
    )


SPECS = [
    AutoencoderSpec(
        name="pixels",
        summary="No autoencoder: the flow runs on pixels.",
        factory="dfm_plugins.autoencoders.pixels:Pixels",
        media=frozenset({"image", "video"}),
    ),
    AutoencoderSpec(
        name="diffusers",
        summary="A pretrained autoencoder saved on disk: Stable Diffusion's, FLUX's, CogVideoX's or Wan's.",
        factory="dfm_plugins.autoencoders.pretrained:Pretrained",
        options=DiffusersOptions,
        media=frozenset({"image", "video"}),
        reference="Classes of the diffusers library: AutoencoderKL, AutoencoderKLCogVideoX, AutoencoderKLWan",
    ),
]
