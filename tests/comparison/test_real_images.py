"""What samples are measured against: the data of the variants, or a folder; and what is refused before any training."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison_files import TINY, write

from dfm_core.cli.app import main
from dfm_core.images import save_png, to_pixels


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty pictures of noise."""
    generator = torch.Generator().manual_seed(0)
    for index in range(20):
        image = torch.rand(3, 16, 16, generator=generator) * 2 - 1
        save_png(tmp_path / "photos" / f"{index:02d}.png", to_pixels(image))
    return tmp_path / "photos"


@pytest.fixture
def on_latents(tmp_path: Path, photos: Path) -> dict[str, Any]:
    """The tiny comparison on stored latents of these pictures."""
    encode = ["encode", str(photos), "--stages", "16", "--device", "cpu", "--output", str(tmp_path / "latents")]
    assert main([*encode, "--quiet"]) == 0
    data = {"name": "webdataset", "options": {"path": str(tmp_path / "latents")}}
    return {**TINY, "base": {**TINY["base"], "dataset": data}}


def test_models_of_stored_latents_are_measured_against_a_folder(
    on_latents: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    evaluation = {**TINY["evaluation"], "images": str(photos), "points": 1}
    file = write(tmp_path / "latents.yaml", {**on_latents, "evaluation": evaluation})
    assert main(["compare", str(file), "--output", str(tmp_path / "out"), "--quiet"]) == 0
    (table,) = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]
    assert all(list(variant["values"]) == ["0"] for variant in table["variants"].values())
    assert table["real"]["images"] == 10  # half of the folder
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert record["evaluation"]["images"] == str(photos)


def test_stored_latents_without_images_are_refused_before_training(
    on_latents: dict[str, Any], tmp_path: Path, rejected: Callable[..., str]
) -> None:
    file = write(tmp_path / "latents.yaml", on_latents)
    for flags in ([], ["--dry-run"]):
        said = rejected("compare", file, "--output", tmp_path / "out", *flags)
        assert "evaluation.images: expected the folder of images that the stored latents were made of" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"metrics": [{"name": "is", "options": {"path": "none.pth"}}]}, "none.pth"),
        ({"images": "nowhere"}, "nowhere is none"),
    ],
)
def test_what_is_missing_for_measuring_is_found_before_training(
    evaluation: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "tiny.yaml", {**TINY, "evaluation": {**TINY["evaluation"], **evaluation}})
    assert main(["compare", str(file), "--output", str(tmp_path / "out")]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_finished_comparison_needs_nothing_to_be_read(
    on_latents: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    evaluation = {**TINY["evaluation"], "images": str(photos), "points": 1}
    file = write(tmp_path / "latents.yaml", {**on_latents, "evaluation": evaluation})
    again = ["compare", str(file), "--output", str(tmp_path / "out"), "--only", "haar"]
    assert main([*again, "--quiet"]) == 0
    photos.rename(tmp_path / "elsewhere")
    assert main([*again, "--quiet"]) == 0
    assert main([*again, "--seeds", "0,1", "--quiet"]) == 1


def test_a_warning_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = {"name": "fd", "options": {"steps": 2, "resamples": 0}}
    evaluation = {**TINY["evaluation"], "metrics": [metric]}
    file = write(tmp_path / "tiny.yaml", {**TINY, "evaluation": evaluation})
    assert main(["compare", str(file), "--output", str(tmp_path / "out"), "--only", "haar"]) == 0
    said = re.findall(r"fd: 12 samples for features of", " ".join(capsys.readouterr().err.split()))
    assert len(said) == 1
