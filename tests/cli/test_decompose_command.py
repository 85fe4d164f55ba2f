"""`dfm decompose`: the numbers against independent ones, the contact sheet, photos and sizes that do not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pywt
from command_tools import Dfm, Rejected, read_picture, write_picture
from numpy.typing import NDArray
from PIL import Image


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture of exactly 64×64, so that nothing is resized; the working directory is an empty one beside it."""
    write_picture(tmp_path / "photo.png", 0, 64, 64)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "photo.png"


def values(photo: Path) -> NDArray[np.float64]:
    """The picture in [-1, 1], (H, W, 3)."""
    return read_picture(photo).astype(np.float64) / 127.5 - 1


def rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def test_laplacian_numbers(dfm: Dfm, photo: Path) -> None:
    result = dfm("decompose", photo, "--stages", "32,64", "--set", "decomposition.options.up=nearest", "--json").json
    fine = values(photo)
    low = fine.reshape(32, 2, 32, 2, 3).mean((1, 3))
    residual = fine - low.repeat(2, 0).repeat(2, 1)
    first, second = result["stages"]
    assert (first["stage"], first["resolution"], first["shape"]) == (1, [32, 32], [3, 32, 32])
    assert first["rms"] == pytest.approx(rms(low), rel=1e-5)
    assert second["rms"] == pytest.approx(rms(residual), rel=1e-5)
    assert second["std"] == pytest.approx(residual.std(), rel=1e-5)
    # Orthogonal: the shares are those of the picture's own energy.
    assert second["energy"] == pytest.approx(np.square(residual).sum() / np.square(fine).sum(), rel=1e-5)
    assert first["energy"] + second["energy"] == pytest.approx(1)
    assert 0 <= result["mean_error"] <= result["largest_error"] < 1e-5


def test_wavelet_numbers_are_those_of_pywavelets(dfm: Dfm, photo: Path) -> None:
    flags = ["--set", "decomposition.options.wavelet=db2", "--set", "decomposition.options.domain=coefficients"]
    result = dfm("decompose", photo, "--decomposition", "dwt", "--stages", "16,32,64", *flags, "--json").json
    low, coarse, fine = pywt.wavedec2(values(photo), "db2", mode="periodization", level=2, axes=(0, 1))
    expected = [rms(low / 4), rms(np.stack(coarse) / 2), rms(np.stack(fine))]
    assert [stage["rms"] for stage in result["stages"]] == pytest.approx(expected, rel=1e-5)
    assert [stage["shape"] for stage in result["stages"]] == [[3, 16, 16], [9, 16, 16], [9, 32, 32]]
    assert [stage["resolution"] for stage in result["stages"]] == [[16, 16], [32, 32], [64, 64]]
    energy = np.square(values(photo)).sum()
    assert [stage["energy"] for stage in result["stages"]] == pytest.approx(
        [float(np.square(part).sum() / energy) for part in (low, np.stack(coarse), np.stack(fine))], rel=1e-5
    )


DECOMPOSITIONS = {
    "laplacian": [],
    "dwt": ["--set", "decomposition.options.wavelet=db2"],
    "dct": ["--set", "decomposition.options.block=8", "--set", "decomposition.options.domain=coefficients"],
    "fourier": [],
}


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_a_contact_sheet_and_a_table(name: str, dfm: Dfm, photo: Path) -> None:
    result = dfm("decompose", photo, "--decomposition", name, "--stages", "16,32,64", *DECOMPOSITIONS[name])
    assert result.lines[0].split() == ["stage", "preview", "tensor", "rms", "std", "energy"]
    assert [line.split()[:2] for line in result.lines[1:4]] == [["1", "16"], ["2", "32"], ["3", "64"]]
    assert result.lines[4].startswith("reconstruction error: largest ")
    assert result.lines[5] == f"wrote photo-{name}.png"
    sheet = read_picture(Path(f"photo-{name}.png"))
    assert 700 < sheet.shape[0] < 1000
    assert 1400 < sheet.shape[1] < 1600
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000  # a picture, not an empty page


def test_any_aspect_ratio_any_format(dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros((90, 300, 3), np.uint8)
    pixels[:, 105:195] = 255  # the centre, which is what stays of it
    Image.fromarray(pixels).save("wide.jpg", quality=100)
    Image.fromarray(pixels).convert("L").save("grey.gif")
    for name in ("wide.jpg", "grey.gif"):
        (first, second) = dfm("decompose", name, "--stages", "24,48", "--json").json["stages"]
        assert first["rms"] == pytest.approx(1, abs=0.02)
        assert second["rms"] < 0.02
    result = dfm("decompose", "wide.jpg", "--stages", "12x40,24x80", "--json", "--output", "sheets/wide.png").json
    assert result["stages"][1]["shape"] == [3, 24, 80]
    assert result["picture"] == "sheets/wide.png"
    assert read_picture(Path("sheets/wide.png")).shape[0] < 450  # as low as the picture is


def test_one_stage_reconstructs_itself(dfm: Dfm, photo: Path) -> None:
    result = dfm("decompose", photo, "--decomposition", "identity", "--stages", "64", "--json").json
    assert result["stages"][0]["energy"] == 1
    assert result["largest_error"] == result["mean_error"] == 0


MISTAKES = {
    "wavelet": (
        ["--decomposition", "dwt", "--set", "decomposition.options.wavelet=db99"],
        "no discrete wavelet",
    ),
    "ratio": (["--decomposition", "dwt", "--stages", "24,64"], "got 24, 64; the nearest that work: 32, 64"),
    "blocks": (["--decomposition", "dct", "--set", "decomposition.options.block=8", "--stages", "20,64"], "would work"),
    "one stage": (["--decomposition", "identity", "--stages", "32,64"], "identity has one stage"),
    "order": (["--stages", "64,32"], "expected sizes that grow from coarse to fine, got 64 before 32; in order: 32,64"),
    "no size": (["--stages", "32,big"], "expected sizes from coarse to fine, like 32,64"),
    "frames": (["--stages", "4x16x16,8x32x32"], "is no clip of 8 frames; for a picture use stages like 48x64,96x128"),
    "name": (["--decomposition", "laplacain"], "unknown decomposition 'laplacain'. Did you mean 'laplacian'?"),
    "option": (["--set", "decomposition.options.filtre=area"], "filtre: unknown key. Did you mean 'filter'?"),
    "format": (["--output", "sheet.xyz"], "sheet.xyz: pictures of the format 'xyz' cannot be written."),
    "folder": (["--output", "."], ". is a folder; expected the name of a picture to write"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, rejected: Rejected, photo: Path) -> None:
    flags, message = MISTAKES[mistake]
    assert message in rejected("decompose", photo, *flags)
    assert list(Path().iterdir()) == []


def test_photos_that_cannot_be_read(rejected: Rejected, photo: Path) -> None:
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    Path("cut.png").write_bytes(photo.read_bytes()[:3000])
    assert "cannot read image broken.jpg: it is in no known format" in rejected("decompose", "broken.jpg", code=1)
    assert "cannot read image cut.png: " in rejected("decompose", "cut.png", code=1)
    message = rejected("decompose", "nothing.jpg", code=1)
    assert message == f"no file {Path('nothing.jpg').absolute()}; expected a picture, such as a JPEG or PNG, or a clip"
    assert "cannot read image ..: " in rejected("decompose", "..", code=1)


def test_a_sheet_that_cannot_be_written(rejected: Rejected, photo: Path) -> None:
    message = rejected("decompose", photo, "--output", photo / "sheet.png", code=1)
    assert message.startswith(f"cannot write {photo / 'sheet.png'}: ")


def test_the_photo_is_never_overwritten(rejected: Rejected, photo: Path) -> None:
    before = photo.read_bytes()
    message = rejected("decompose", photo, "--output", f"../work/../{photo.name}")
    assert "is the photo itself, which would be overwritten" in message
    assert photo.read_bytes() == before
