"""Reading any image as sRGB in [-1, 1], fitting it to a size, grids, and files that appear complete or not at all."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from dfm_core.errors import DataError, UnreadableSampleError
from dfm_core.images import (
    fit_image,
    make_grid,
    open_image,
    read_image,
    save_gif,
    save_png,
    to_pixels,
    to_tensor,
    to_uint8,
)

RED, WHITE = (255, 0, 0), (255, 255, 255)


def quarters() -> Image.Image:
    """A picture 24 wide and 16 high whose upper left quarter is red, the rest blue."""
    image = Image.new("RGB", (24, 16), (0, 0, 255))
    image.paste(RED, (0, 0, 12, 8))
    return image


def colour_of(tensor: torch.Tensor, row: int, column: int) -> tuple[int, ...]:
    return tuple(to_uint8(tensor[:, row, column]).tolist())


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.tiff", "a.ppm"])
def test_formats_that_lose_nothing_come_back_exactly(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name, lossless=True)
    image = read_image(tmp_path / name)
    assert image.shape == (3, 9, 7)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image.numpy().transpose(1, 2, 0), pixels / 127.5 - 1, atol=1e-6)
    assert (to_pixels(image) == pixels).all()


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(tmp_path: Path, orientation: int, ending: str) -> None:
    upright = quarters()
    undo = Image.Transpose
    stored = {
        1: upright,
        2: upright.transpose(undo.FLIP_LEFT_RIGHT),
        3: upright.transpose(undo.ROTATE_180),
        4: upright.transpose(undo.FLIP_TOP_BOTTOM),
        5: upright.transpose(undo.TRANSPOSE),
        6: upright.transpose(undo.ROTATE_90),
        7: upright.transpose(undo.TRANSVERSE),
        8: upright.transpose(undo.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    stored.save(path, exif=exif, quality=95)
    image = read_image(path)
    assert image.shape == (3, 16, 24)
    expected = to_tensor(upright)
    assert (image - expected)[:, 1:7, 1:11].abs().max() < 0.1
    assert (image - expected)[:, 9:, 13:].abs().max() < 0.1


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)
    pixels[:, 0] = (255, 0, 0, 255)
    pixels[:, 1] = (255, 0, 0, 0)
    pixels[:, 2] = (0, 0, 0, 128)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert [colour_of(image, 0, column) for column in range(3)] == [RED, WHITE, (127, 127, 127)]


def test_grey_with_alpha_and_transparent_palette(tmp_path: Path) -> None:
    Image.merge("LA", [Image.new("L", (2, 2), 40), Image.new("L", (2, 2), 0)]).save(tmp_path / "la.png")
    assert colour_of(read_image(tmp_path / "la.png"), 0, 0) == WHITE
    palette = quarters().quantize(4)
    palette.save(tmp_path / "p.png")
    assert colour_of(read_image(tmp_path / "p.png"), 0, 0) == RED
    palette.save(tmp_path / "t.gif", transparency=palette.getpixel((0, 0)))
    assert colour_of(read_image(tmp_path / "t.gif"), 0, 0) == WHITE
    assert colour_of(read_image(tmp_path / "t.gif"), 12, 20) == (0, 0, 255)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    image = read_image(tmp_path / f"a.{ending}")
    assert [colour_of(image, 0, column)[0] for column in range(3)] == [0, 100, 255]
    assert image.shape[0] == 3


def test_cmyk_black_and_white_and_grey(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    assert torch.tensor(colour_of(read_image(tmp_path / "cmyk.jpg"), 4, 4)).sub(torch.tensor(RED)).abs().max() <= 3
    Image.new("1", (8, 8), 1).save(tmp_path / "bits.png")
    assert colour_of(read_image(tmp_path / "bits.png"), 4, 4) == WHITE
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert colour_of(read_image(tmp_path / "grey.png"), 4, 4) == (77, 77, 77)


def test_an_embedded_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    """A profile with red and blue primaries swapped must swap the channels back: an answer known without littlecms."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = {srgb[132 + 12 * i : 136 + 12 * i]: 132 + 12 * i for i in range(int.from_bytes(srgb[128:132], "big"))}
    swapped = bytearray(srgb.replace(b"s\0R\0G\0B", b"s\0W\0A\0P").replace(b"sRGB", b"sWAP"))
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    Image.new("RGB", (4, 4), (200, 100, 20)).save(tmp_path / "swapped.png", icc_profile=bytes(swapped))
    colour = colour_of(read_image(tmp_path / "swapped.png"), 0, 0)
    assert np.abs(np.subtract(colour, (20, 100, 200))).max() <= 2, colour
    Image.new("RGB", (4, 4), (200, 100, 20)).save(tmp_path / "srgb.png", icc_profile=srgb)
    assert colour_of(read_image(tmp_path / "srgb.png"), 0, 0) == (200, 100, 20)


def test_a_profile_that_is_broken_or_of_another_mode_is_ignored(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for name, profile in (("broken.png", b"nonsense"), ("lab.png", srgb)):
        Image.new("RGB", (4, 4), (200, 100, 20)).save(tmp_path / name, icc_profile=profile)
        assert colour_of(read_image(tmp_path / name), 0, 0) == (200, 100, 20)


def write_unreadable(folder: Path) -> list[Path]:
    """Write a text, a cut-off PNG and JPEG, an empty file and a picture of floats; return their paths."""
    for name in ("cut.png", "cut.jpg"):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").touch()
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(folder / "floats.tiff")
    return [folder / name for name in ("cut.png", "cut.jpg", "text.jpg", "empty.png", "floats.tiff")]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    for path in [*write_unreadable(tmp_path), tmp_path / "absent.png"]:
        with pytest.raises(UnreadableSampleError, match=path.name):
            read_image(path, (8, 8))


def test_a_png_whose_checksum_is_wrong_is_unreadable(tmp_path: Path) -> None:
    """Pillow decodes it without a word: the checksum alone tells that the pixels are not those that were written."""
    quarters().save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert colour_of(read_image(BytesIO(content), name="a.png"), 0, 0) == RED
    end = content.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(content[: end - 4] + bytes(4) + content[end:])
    with Image.open(tmp_path / "a.png") as file:
        assert file.getpixel((0, 0)) == RED
    for source in (tmp_path / "a.png", BytesIO((tmp_path / "a.png").read_bytes())):
        with pytest.raises(UnreadableSampleError, match=r"a\.png.*checksum"):
            read_image(source, name="a.png")


def test_decompression_bombs_are_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableSampleError, match=r"bomb\.png.*decompression bomb"):
        open_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (16, 8), (40, 60)])
def test_fitting_covers_and_crops_the_centre(size: tuple[int, int]) -> None:
    """A linear ramp stays one under cover and crop, so every value of the result is known."""
    ramp = np.broadcast_to(np.linspace(0, 240, 64).round().astype(np.uint8)[None, :, None], (32, 64, 3))
    fitted = np.asarray(fit_image(Image.fromarray(np.ascontiguousarray(ramp)), size))
    height, width = size
    scale = max(width / 64, height / 32)
    centres = (64 - width / scale) / 2 + (np.arange(width) + 0.5) / scale - 0.5
    expected = centres * 240 / 63
    inner = slice(width // 8, -(width // 8))
    assert fitted.shape == (*size, 3)
    assert np.abs(fitted[height // 2, inner, 0] - expected[inner]).max() <= 2


def test_the_position_chooses_the_part_that_is_kept() -> None:
    image = Image.new("RGB", (30, 10), (0, 0, 255))
    image.paste(RED, (0, 0, 10, 10))
    assert colour_of(to_tensor(fit_image(image, (5, 5), (0.5, 0.0))), 2, 2) == RED
    assert colour_of(to_tensor(fit_image(image, (5, 5), (0.5, 1.0))), 2, 2) == (0, 0, 255)


def test_reducing_antialiases() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(fit_image(Image.fromarray(stripes), (16, 16))).astype(int)
    assert np.abs(small[2:-2, 2:-2] - 127.5).max() < 4


def test_jpeg_decoded_at_a_fraction_looks_the_same(tmp_path: Path) -> None:
    y, x = np.mgrid[:256, :512] / 512
    smooth = (127.5 + 100 * np.sin(9 * np.stack([x, y, x + y], -1))).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert open_image(tmp_path / "a.jpg", shortest=64).size == (128, 64)
    assert open_image(tmp_path / "a.jpg").size == (512, 256)
    whole = to_tensor(fit_image(open_image(tmp_path / "a.jpg"), (32, 32)))
    assert (read_image(tmp_path / "a.jpg", (32, 32)) - whole).abs().max() < 0.05


def test_rounding_to_bytes_is_to_the_nearest_and_clamped() -> None:
    values = torch.tensor([-3.0, -1.0, -1 + 0.9 / 255, 0.0, 1.0, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 255, 255]
    every = torch.arange(256)
    assert torch.equal(to_uint8(every.float().div(127.5).sub(1)).long(), every)
    assert values[0] == -3


def test_grids_fill_rows_and_pad_with_white() -> None:
    images = torch.stack([torch.full((3, 4, 5), value) for value in (-1.0, 0.0, 1.0, -1.0, 0.0)])
    grid = make_grid(images, columns=3, padding=1)
    assert grid.shape == (2 * 5 + 1, 3 * 6 + 1, 3)
    assert grid.dtype == np.uint8
    assert (grid[1:5, 1:6] == 0).all()
    assert (grid[1:5, 7:12] == 128).all()
    assert (grid[6:10, 13:18] == 255).all(), "the place without an image is white"
    assert (grid[0] == 255).all()
    assert (grid[:, -1] == 255).all()


def test_grids_are_square_unless_told_and_take_grey() -> None:
    assert make_grid(torch.zeros(9, 1, 4, 4), padding=0).shape == (12, 12, 3)
    assert make_grid([torch.zeros(3, 4, 4)] * 2, columns=8, padding=0).shape == (4, 8, 3)
    with pytest.raises(DataError, match="at least one"):
        make_grid([])
    with pytest.raises(DataError, match=r"\(16, 4, 4\)"):
        make_grid(torch.zeros(1, 16, 4, 4))


def test_png_comes_back_and_folders_are_made(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    save_png(tmp_path / "new" / "a.png", pixels)
    assert (np.asarray(Image.open(tmp_path / "new" / "a.png")) == pixels).all()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_png(tmp_path / "a.png", np.zeros((2, 2, 3), dtype=np.uint8))
    before = (tmp_path / "a.png").read_bytes()

    def full(self: Image.Image, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_png(tmp_path / "a.png", np.ones((2, 2, 3), dtype=np.uint8))
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_gif_keeps_frames_and_durations(tmp_path: Path) -> None:
    frames = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 120, 255)]
    save_gif(tmp_path / "a.gif", frames, [80, 80, 900])
    with Image.open(tmp_path / "a.gif") as file:
        assert getattr(file, "n_frames", 1) == 3
        file.seek(2)
        assert file.info["duration"] == 900
        assert file.convert("RGB").getpixel((3, 3)) == WHITE
    with pytest.raises(DataError, match="at least one frame"):
        save_gif(tmp_path / "b.gif", [])
