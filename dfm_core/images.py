"""Images between files and tensors in [-1, 1]: any readable format as sRGB, fitting to a size, grids, PNG and GIF."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from dfm_core.errors import DataError, UnreadableSampleError
from dfm_core.files import complete_or_absent
from dfm_core.stages import Size

Pixels = NDArray[np.uint8]
"""(H, W, 3) or (H, W), 0…255."""

# Formats that Pillow names and cannot decode by itself; EPS it would hand to another program (Ghostscript).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_COMMON = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_ORIENTATION_TAG = 0x0112
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@cache
def image_formats() -> tuple[str, ...]:
    """Names of the formats that Pillow decodes by itself, in the order in which a file is tried for them."""
    Image.init()
    return tuple(sorted(Image.OPEN.keys() - _NOT_DECODED, key=lambda name: (name not in _COMMON, name)))


@cache
def image_endings() -> frozenset[str]:
    """Endings of the files that `open_image` reads, lower case with their dot."""
    return frozenset(e for e, name in Image.registered_extensions().items() if name in image_formats())


def read_image(
    source: str | Path | IO[bytes],
    size: Size | None = None,
    position: tuple[float, float] = (0.5, 0.5),
    name: str | None = None,
) -> Tensor:
    """Read an image file as (3, H, W) float32 in [-1, 1]: upright, sRGB, transparency over white, grey as RGB.

    source: a path, or an open file that `name` names. size: height × width to cover and crop to (see `fit_image`), None
    for the file's own. Raises UnreadableSampleError naming the file.
    """
    if size is None:
        return to_tensor(open_image(source, name=name))
    return to_tensor(fit_image(open_image(source, shortest=2 * max(size), name=name), size, position))


def open_image(source: str | Path | IO[bytes], shortest: int | None = None, name: str | None = None) -> Image.Image:
    """Read an image file as an upright sRGB picture of mode RGB, transparency over white.

    source: a path, or an open file that `name` names. shortest: a JPEG may be decoded at a half, a quarter or an eighth
    while its short side stays at least this long. Raises UnreadableSampleError naming the file, whatever is wrong with
    it; so is a picture of more than 179 million pixels, which may be a trap.
    """
    try:
        with _opened(source) as file:
            if shortest is not None:
                file.draft(None, (shortest, shortest))
            file.load()
            return _upright(_as_rgb(file), _orientation(file))
    # Broken files make decoders raise anything: OSError, SyntaxError, ValueError, struct.error, DecompressionBombError.
    except Exception as error:
        reason = (
            "it is in no known format" if isinstance(error, UnidentifiedImageError) else error or type(error).__name__
        )
        raise UnreadableSampleError(f"cannot read image {name or source}: {reason}") from error


@contextmanager
def _opened(source: str | Path | IO[bytes]) -> Iterator[Image.Image]:
    with Image.open(source, formats=image_formats()) as file:
        if file.format != "PNG":
            yield file
            return
        # Decoding passes over the checksums of the pixels: what is damaged would become another picture.
        file.verify()
    with Image.open(source, formats=("PNG",)) as file:
        yield file


def fit_image(image: Image.Image, size: Size, position: tuple[float, float] = (0.5, 0.5)) -> Image.Image:
    """Scale an image until it covers `size` (height × width), antialiased bicubic, and crop the rest.

    position: where the crop lies, (down, right), each in [0, 1]; 0.5 is the centre.
    """
    height, width = size
    scale = max(width / image.width, height / image.height)
    spare_right, spare_down = image.width - width / scale, image.height - height / scale
    left, top = max(0.0, spare_right * position[1]), max(0.0, spare_down * position[0])
    box = (left, top, min(left + width / scale, image.width), min(top + height / scale, image.height))
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def to_tensor(image: Image.Image) -> Tensor:
    """Convert a picture of mode RGB to (3, H, W) float32 in [-1, 1]."""
    pixels = rearrange(torch.from_numpy(np.array(image)), "h w c -> c h w").contiguous()
    return pixels.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Round images in [-1, 1] to uint8 in 0…255, clamped; any shape."""
    return images.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def to_pixels(image: Tensor) -> Pixels:
    """Convert one image (1 or 3, H, W) in [-1, 1] to an array (H, W, 3) of uint8."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise DataError(f"expected an image (1 or 3, H, W), got {tuple(image.shape)}")
    height, width = image.shape[1:]
    return rearrange(to_uint8(image).expand(3, height, width), "c h w -> h w c").cpu().numpy()


def make_grid(images: Tensor | Sequence[Tensor], columns: int | None = None, padding: int = 2) -> Pixels:
    """Tile images (B, 1 or 3, H, W) in [-1, 1] row by row on white -> (rows, columns, 3) of uint8.

    columns: None for as many as make it about square. padding: white pixels between and around the images.
    """
    if len(images) == 0:
        raise DataError("expected at least one image for a grid, got none")
    tiles = np.stack([to_pixels(image) for image in images])
    columns = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    empty = -len(tiles) % columns
    tiles = np.pad(tiles, ((0, empty), (0, 0), (0, 0), (0, 0)), constant_values=255)
    tiles = np.pad(tiles, ((0, 0), (0, padding), (0, padding), (0, 0)), constant_values=255)
    grid = rearrange(tiles, "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)
    return np.pad(grid, ((padding, 0), (padding, 0), (0, 0)), constant_values=255)


def save_png(path: str | Path, pixels: Pixels) -> None:
    """Write (H, W, 3) or (H, W) of uint8 as PNG; the file appears complete or not at all."""
    with complete_or_absent(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def save_gif(path: str | Path, frames: Sequence[Pixels], duration_ms: int | Sequence[int] = 100) -> None:
    """Write frames (H, W, 3) of uint8 as an endless GIF; the file appears complete or not at all.

    duration_ms: of every frame, or of each.
    """
    if len(frames) == 0:
        raise DataError("expected at least one frame for an animation, got none")
    first, *others = [Image.fromarray(frame) for frame in frames]
    duration = duration_ms if isinstance(duration_ms, int) else list(duration_ms)
    with complete_or_absent(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)


def _as_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode == "F":
        raise ValueError("a picture of floats (mode F) does not say what is white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    alpha = None
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    colour = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
    transform = _transform_to_srgb(profile, colour.mode) if profile else None
    colour = colour.convert("RGB") if transform is None else transform.apply(colour)
    if alpha is None:
        return colour
    white = Image.new("RGB", image.size, "white")
    white.paste(colour, mask=alpha)
    return white


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float32) / 257  # 65535 / 257 = 255
    return Image.fromarray(np.clip(values.round(), 0, 255).astype(np.uint8))


@lru_cache(maxsize=16)
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return None where the profile is sRGB already, broken, or made for another mode: the values are taken as sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.ImageCmsTransform(source, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        return None


def _orientation(file: Image.Image) -> int:
    try:
        return int(file.getexif().get(_ORIENTATION_TAG, 1))
    # A photo whose EXIF block is broken is still a photo.
    except Exception:
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _TO_UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)
