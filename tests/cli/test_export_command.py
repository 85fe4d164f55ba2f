"""`dfm export`: the averaged weights and what describes them; loads without data and without the run."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
import torch
from command_tools import Dfm, Rejected
from safetensors.torch import load_file

import dfm_core
from dfm_core.training.checkpoint import list_checkpoints


def test_the_averaged_weights_and_their_description(dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    result = dfm("export", trained, tmp_path / "out" / "model")
    model = tmp_path / "out" / "model"
    assert result.out == f"wrote {model}\n"
    assert f'dfm_core.load("{model}")' in result.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model"]
    assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.safetensors"]
    weights, averages = (load_file(path) for path in (model / "model.safetensors", newest(trained)))
    assert weights.keys() == averages.keys()
    assert all(torch.equal(weights[name], averages[name]) for name in weights)
    description = json.loads((model / "model.json").read_text())
    assert description["config"]["stages"] == [[8, 8], [16, 16]]
    assert description["data"]["classes"][0] == "circle"
    assert description["providers"]["backbone"]["name"] == "dit"


def newest(run: Path) -> Path:
    return list_checkpoints(run)[-1] / "ema.safetensors"


def test_it_loads_without_the_run(dfm: Dfm, run: Path, tmp_path: Path) -> None:
    images = dfm_core.load(run, device="cpu").generate(2)
    dfm("export", run, tmp_path / "model")
    shutil.rmtree(run)
    assert torch.equal(dfm_core.load(tmp_path / "model", device="cpu").generate(2), images)


def test_data_that_is_gone_does_not_matter(dfm: Dfm, unlabelled: Path, tmp_path: Path) -> None:
    dfm("export", unlabelled, tmp_path / "model")
    description = tmp_path / "model" / "model.json"
    description.write_text(description.read_text().replace("photos", "gone"))
    assert dfm_core.load(tmp_path / "model", device="cpu").classes == ()


def test_a_folder_that_exists_is_left_alone(rejected: Rejected, trained: Path, tmp_path: Path) -> None:
    assert rejected("export", trained, tmp_path) == f"{tmp_path} exists already; choose another folder"
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run(rejected: Rejected, tmp_path: Path) -> None:
    rejected("export", tmp_path / "nothing", tmp_path / "model", code=1)
    assert not (tmp_path / "model").exists()


def test_a_full_disk_leaves_nothing(
    rejected: Rejected, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("dfm_core.model.write_tensors", full)
    message = rejected("export", trained, tmp_path / "model", code=1)
    assert message == f"cannot write {tmp_path / 'model'}: No space left on device. Is the disk full?"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_who_may_read_it_is_the_umasks_choice(
    umask: int, folder: int, file: int, dfm: Dfm, trained: Path, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        dfm("export", trained, tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"model": folder, "model.json": file, "model.safetensors": file}
