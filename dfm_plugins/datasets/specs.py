"""The data sets that ship: names, addresses and options."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from dfm_core.plugins import DatasetSpec, Options


def absolute(path: str) -> str:
    """Make a path absolute: a run may go on from another working directory."""
    return os.path.abspath(os.path.expanduser(path))


def address(text: str) -> str:
    """Make a path absolute and leave a URL as it is. Raises ValueError for what shards are not read from."""
    scheme = text.partition(":")[0].lower()
    if scheme == "pipe":
        raise ValueError(
            f"{text}: pipe: would run a command in a shell, which data must never do; give a path or an https:// URL"
        )
    if "://" not in text:
        return absolute(text)
    if scheme not in ("http", "https", "file"):
        raise ValueError(f"expected a path or a URL of http, https or file, got {text}; mount it or serve it by https")
    return text


def addresses(path: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Check and complete one address or several."""
    return address(path) if isinstance(path, str) else tuple(map(address, path))


Crop = Annotated[Literal["center", "random"], Field(description="Part that is kept where the aspect ratio differs.")]
Flip = Annotated[bool, Field(description="Mirror half of the training images left to right.")]
Texture = Annotated[
    Literal["plain", "weak", "hard"],
    Field(description="Two colours; or faint patterns before a gradient; or strong patterns, on the background too."),
]
Rotation = Annotated[float, Field(ge=0, le=180, description="Largest rotation, in degrees either way.")]
Shape = Literal["circle", "square", "triangle", "star", "ring", "cross", "crescent", "heart"]
Motion = Literal["right", "left", "down", "up", "growing", "shrinking", "turning"]
ShardPath = Annotated[str | tuple[str, ...], AfterValidator(addresses)]


class ShapesOptions(Options):
    """Options of `shapes`."""

    texture: Texture = "plain"
    rotation: Rotation = 15.0
    train_images: int = Field(default=1_000_000, ge=1, description="Different images in the training split.")
    validation_images: int = Field(default=10_000, ge=0, description="Different images in the validation split.")


class MovingShapesOptions(Options):
    """Options of `moving_shapes`."""

    texture: Texture = "plain"
    rotation: Rotation = 15.0
    shapes: tuple[Shape, ...] | None = Field(default=None, min_length=1, description="Which shapes; null for all.")
    motions: tuple[Motion, ...] | None = Field(default=None, min_length=1, description="Which motions; null for all.")
    train_clips: int = Field(default=1_000_000, ge=1, description="Different clips in the training split.")
    validation_clips: int = Field(default=10_000, ge=0, description="Different clips in the validation split.")


class FolderOptions(Options):
    """Options of `folder`."""

    places = frozenset({"path"})

    path: Annotated[str, AfterValidator(absolute)] = Field(
        description="Folder of images: one sub-folder a class, or all images side by side (no labels)."
    )
    labels: bool = Field(
        default=True, description="Take the sub-folders as classes; false: search them, but no labels."
    )
    crop: Crop = "center"
    flip: Flip = False
    validation_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the files kept for validation, chosen by a hash of their names."
    )


class VideoFolderOptions(Options):
    """Options of `video_folder`."""

    places = frozenset({"path"})

    path: Annotated[str, AfterValidator(absolute)] = Field(
        description="Folder of clips: one sub-folder a class, or all clips side by side (no labels)."
    )
    labels: bool = Field(default=True, description="Take sub-folders as classes; false: use all clips without labels.")
    frame_rate: float | None = Field(
        default=None, ge=1e-3, le=1000, description="Frames a second to take, the nearest in time; null: every frame."
    )
    stills: bool = Field(
        default=False,
        description="Images are samples, too, in batches of their own; false: a folder of images is a clip's frames.",
    )
    crop: Crop = "center"
    flip: Flip = False
    validation_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the files kept for validation, chosen by a hash of their names."
    )


class WebDatasetOptions(Options):
    """Options of `webdataset`."""

    places = frozenset({"path", "validation_path", "cache", "cache_gigabytes"})

    path: ShardPath = Field(
        description="Folder of .tar shards, a shard, a pattern (shards-{0000..0127}.tar), a URL, or a list of these."
    )
    validation_path: ShardPath | None = Field(default=None, description="Shards kept for validation, written as path.")
    validation_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Without validation_path: share of the samples, by a hash of their keys."
    )
    media: str | None = Field(
        default=None, description="Ending of the image or latent in KEY.ending; null: the only one that a sample has."
    )
    labels: bool = Field(default=True, description="Read labels; false: there are none.")
    label: str | None = Field(
        default=None, description="Ending of the label: text, or ending in json; null: cls, else json."
    )
    label_key: str = Field(default="label", description="Key of the label in a json file.")
    classes: tuple[str, ...] | None = Field(
        default=None, description="Names of the labels; null: those of dataset.json, else those that occur."
    )
    crop: Crop = "center"
    flip: Flip = False
    shuffle_window: int = Field(default=8, ge=1, description="Shards whose samples are mixed at any one time.")
    cache: Annotated[str, AfterValidator(absolute)] | None = Field(
        default=None, description="Folder for indexes and downloaded shards; null: dfm/shards in the user's cache."
    )
    cache_gigabytes: float | None = Field(
        default=None, gt=0, description="Downloaded shards beyond this are removed, least recently used first."
    )

    @model_validator(mode="after")
    def _one_validation(self) -> WebDatasetOptions:
        if self.validation_path is not None and self.validation_fraction:
            raise ValueError("validation_path and validation_fraction: expected one of them, got both")
        return self


class HuggingFaceOptions(Options):
    """Options of `hugging_face`."""

    places = frozenset({"path", "cache"})

    path: str = Field(
        description="Folder from save_to_disk, folder or file of parquet or arrow, folder of images; or a cached name."
    )
    configuration: str | None = Field(default=None, description="Configuration of a cached data set, if it has any.")
    train: str = Field(default="train", description="Name of the split to train on, where there are splits.")
    validation: str | None = Field(
        default=None, description="Name of the split for validation; null: `validation` where there is one."
    )
    validation_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Without a split for validation: share of the rows, by a hash of the row."
    )
    image: str | None = Field(default=None, description="Column of the images; null: the only one of that kind.")
    labels: bool = Field(default=True, description="Read labels; false: there are none.")
    label: str | None = Field(
        default=None, description="Column of the labels: class labels, integers or text; null: the only class label."
    )
    crop: Crop = "center"
    flip: Flip = False
    cache: Annotated[str, AfterValidator(absolute)] | None = Field(
        default=None, description="Folder in which files are kept as Arrow tables; null: that of the library datasets."
    )

    @field_validator("path")
    @classmethod
    def _complete(cls, path: str) -> str:
        return absolute(path) if os.path.exists(os.path.expanduser(path)) else path

    @model_validator(mode="after")
    def _one_validation(self) -> HuggingFaceOptions:
        if self.validation is not None and self.validation_fraction:
            raise ValueError("validation and validation_fraction: expected one of them, got both")
        return self


SPECS = [
    DatasetSpec(
        name="shapes",
        summary="Procedural coloured shapes in 8 classes: any size, nothing to download.",
        factory="dfm_plugins.datasets.shapes:Shapes",
        options=ShapesOptions,
        reference="Signed distances after I. Quilez, https://iquilezles.org/articles/distfunctions2d/",
    ),
    DatasetSpec(
        name="moving_shapes",
        summary="Procedural clips of one coloured shape in motion: the class says which shape and how it moves.",
        factory="dfm_plugins.datasets.moving_shapes:MovingShapes",
        options=MovingShapesOptions,
        media=frozenset({"video"}),
    ),
    DatasetSpec(
        name="folder",
        summary="Images from a folder, with sub-folders as classes or without labels.",
        factory="dfm_plugins.datasets.folder:Folder",
        options=FolderOptions,
    ),
    DatasetSpec(
        name="video_folder",
        summary="Clips from a folder: MP4, WebM, GIF, folders of frames; with sub-folders as classes or without.",
        factory="dfm_plugins.datasets.video_folder:VideoFolder",
        options=VideoFolderOptions,
        media=frozenset({"video"}),
    ),
    DatasetSpec(
        name="webdataset",
        summary="Images or latents in tar shards, here or behind a URL: few large files instead of many small ones.",
        factory="dfm_plugins.datasets.webdataset:WebDataset",
        options=WebDatasetOptions,
        media=frozenset({"image", "latent"}),
        reference="Naming after T. Breuel's WebDataset, https://github.com/webdataset/webdataset",
    ),
    DatasetSpec(
        name="hugging_face",
        summary="Images in a data set of the library datasets: saved to disk, or parquet, arrow and image files.",
        factory="dfm_plugins.datasets.hugging_face:HuggingFace",
        options=HuggingFaceOptions,
        reference="https://huggingface.co/docs/datasets",
    ),
]
