"""Every command and every Python block of docs/data.md runs, in their order, in one folder, made smaller."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from clip_files import write_video
from PIL import Image

from dfm_core.cli.app import main

sys.path.append(str(Path(__file__).parent / "components" / "datasets"))
from shard_files import serving

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)
SERVER = "https://data.example.org"
SMALLER = [
    *("--max-steps", "2", "--batch-size", "2", "--device", "cpu", "--set", "flow.statistics_images=2"),
    *("--set", "backbone.options.depth=1", "--set", "backbone.options.width=32", "--set", "backbone.options.heads=2"),
    *("--set", "logging.tensorboard=false"),
]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos of cats and dogs, and with clips; what is kept elsewhere goes there too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for index in range(4):
        place = tmp_path / "photos" / ("cats" if index % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(place / f"{index}.png")
        for folder in ("clips", "both"):
            write_video(tmp_path / folder / "waves" / f"{index}.mp4", 20, first=20 * index)
    shutil.copytree(tmp_path / "photos" / "cats", tmp_path / "both" / "cats")
    return tmp_path


def test_commands_and_code_run_in_their_order(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    library = pytest.importorskip("datasets")
    library.disable_progress_bars()
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(workplace / "cache"))
    ran = 0
    with serving(workplace / "shards") as server:
        for language, block in BLOCK.findall(PAGE.read_text()):
            if language == "python":
                exec(compile(block, "docs/data.md", "exec"), {})
                continue
            for line in block.strip().splitlines():
                program, *arguments = shlex.split(line.replace(SERVER, server.url))
                assert program == "dfm", f"a command that no test runs: {line}"
                smaller = ["--max-steps", "3"] if "--resume" in arguments else SMALLER
                assert main([*arguments, *smaller]) == 0, f"{line}\n{capsys.readouterr().err}"
                ran += 1
        assert {"dataset.json", "shards-0000.tar", "shards-0001.tar"} <= set(server.requests)
    assert ran >= 8
    assert {path.name for path in (workplace / "runs").iterdir()} >= {"folder", "shards", "remote", "saved", "parquet"}
    assert len(list((workplace / "cache" / "dfm" / "shards" / "indexes").glob("*.index"))) == 4
    assert os.listdir(workplace / "shards").count("dataset.json") == 1
