"""Every command and the Python block of docs/video.md run, in their order, in one folder, made smaller: 20 seconds."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dfm_core.cli.app import main
from dfm_core.clips import read_clip, write_gif, write_mp4
from dfm_core.images import save_png, to_pixels

sys.path.append(str(Path(__file__).parent))
from tiny_autoencoders import save_tiny

PAGE = Path(__file__).parents[1] / "docs" / "video.md"
BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)
SMALLER = [
    *("--max-steps", "1", "--batch-size", "2", "--device", "cpu", "--set", "flow.statistics_images=2"),
    *("--set", "backbone.options.depth=1", "--set", "backbone.options.width=32", "--set", "backbone.options.heads=2"),
    *("--set", "logging.tensorboard=false", "--set", "logging.sample_every=0", "--set", "logging.validation_every=0"),
    *("--set", "logging.utilisation=false"),
]
SMALLER_IN_PYTHON = '"depth": 1, "width": 32, "heads": 2, "token_grid": 4'


def moving(frames: int, height: int, width: int) -> Tensor:
    """A white bar on its way to the right, (3, T, H, W)."""
    clip = -torch.ones(3, frames, height, width)
    for frame in range(frames):
        left = (width - 8) * frame // max(1, frames - 1)
        clip[:, frame, :, left : left + 8] = 1
    return clip


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a clip, two folders of clips, one of them with an image, and a tiny autoencoder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_mp4("clip.mp4", moving(20, 64, 80), 8)
    for folder in ("clips", "mixed"):
        for label in ("still", "quick"):
            Path(folder, label).mkdir(parents=True)
            write_mp4(Path(folder, label, "0.mp4"), moving(16, 40, 48), 8)
            write_gif(Path(folder, label, "1.gif"), moving(12, 40, 48), 8)
    for number in range(4):
        save_png(Path("mixed", "still", f"{number}.png"), to_pixels(moving(1, 40, 48)[:, 0]))
    save_tiny(tmp_path / "models" / "cogvideox" / "vae", "cogvideox")
    return tmp_path


def blocks() -> Iterator[tuple[str, str]]:
    for language, block in BLOCK.findall(PAGE.read_text()):
        if language == "python":
            yield language, block
        else:
            yield from (("bash", line) for line in block.strip().splitlines())


def smaller(arguments: list[str]) -> list[str]:
    if arguments[0] == "train" and "--dry-run" not in arguments:
        return [*arguments, *SMALLER]
    if arguments[0] == "sample":
        return [*arguments, "--steps", "2,2", "--device", "cpu"]
    if arguments[0] == "eval":
        return [
            *arguments,
            "--num",
            "4",
            "--reference-num",
            "4",
            "--steps",
            "1,1",
            "--device",
            "cpu",
            "--set",
            "fd.steps=2",
        ]
    return [*arguments, "--device", "cpu"] if arguments[0] == "encode" else arguments


@pytest.mark.slow
def test_commands_and_code_run_in_their_order(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    pytest.importorskip("diffusers")
    ran = []
    for language, text in blocks():
        if language == "python":
            code = re.sub(r'"depth": 4, "width": 96, "heads": 4, "token_grid": 4', SMALLER_IN_PYTHON, text)
            assert code != text
            exec(compile(code.replace("max_steps=200", "max_steps=1"), PAGE.name, "exec"), {})
            continue
        program, *arguments = shlex.split(text)
        assert program == "dfm", f"a command that no test runs: {text}"
        assert main(smaller(arguments)) == 0, f"{text}\n{capsys.readouterr().err}"
        ran.append(arguments[0])
    assert ran.count("train") == 12
    assert ran.count("sample") == 2
    assert ran.count("decompose") == 3
    _check_what_is_there(workplace)


def _check_what_is_there(workplace: Path) -> None:
    first = {path.name for path in (workplace / "runs" / "moving" / "samples" / "0001").iterdir()}
    assert {"grid.png", "grid.gif", "grid.mp4", "0007.mp4", "0000_stage_1.gif", "animation.gif"} <= first
    assert {path.name for path in workplace.glob("*.gif")} >= {"clip-laplacian-stage-2.gif", "causal-stage-3.gif"}
    assert read_clip(workplace / "star.gif").shape == (3, 8, 32, 32)
    shutil.rmtree(workplace / "models")
