"""The data sets that ship: names, addresses and options."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dfm_core.plugins import DatasetSpec, Options


def absolute(path: str) -> str:
    """Make a path absolute: a run may go on from another working directory."""
    return os.path.abspath(os.path.expanduser(path))


class ShapesOptions(Options):
    """Options of `shapes`."""

    texture: Literal["plain", "weak", "hard"] = Field(
        default="plain",
        description="Two colours; or faint patterns before a gradient; or strong patterns, on the background too.",
    )
    rotation: float = Field(default=15.0, ge=0, le=180, description="Largest rotation, in degrees either way.")
    train_images: int = Field(default=1_000_000, ge=1, description="Different images in the training split.")
    validation_images: int = Field(default=10_000, ge=0, description="Different images in the validation split.")


class FolderOptions(Options):
    """Options of `folder`."""

    path: Annotated[str, AfterValidator(absolute)] = Field(
        description="Folder of images: one sub-folder a class, or all images side by side (no labels)."
    )
    labels: bool = Field(
        default=True, description="Take the sub-folders as classes; false: search them, but no labels."
    )
    crop: Literal["center", "random"] = Field(
        default="center", description="Part that is kept where the aspect ratio differs."
    )
    flip: bool = Field(default=False, description="Mirror half of the training images left to right.")
    validation_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the files kept for validation, chosen by a hash of their names."
    )


SPECS = [
    DatasetSpec(
        name="shapes",
        summary="Procedural coloured shapes in 8 classes: any size, nothing to download.",
        factory="dfm_plugins.datasets.shapes:Shapes",
        options=ShapesOptions,
        reference="Signed distances after I. Quilez, https://iquilezles.org/articles/distfunctions2d/",
    ),
    DatasetSpec(
        name="folder",
        summary="Images from a folder, with sub-folders as classes or without labels.",
        factory="dfm_plugins.datasets.folder:Folder",
        options=FolderOptions,
    ),
]
