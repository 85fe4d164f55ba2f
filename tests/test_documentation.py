"""Every command and every Python block of the README and docs runs, in their order, in one folder, made smaller."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from dfm_core.cli.app import main
from dfm_core.images import save_png, to_pixels

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/commands.md"]
SMALLER = ["--max-steps", "2", "--device", "cpu"]
SMALLER_NEW = [
    *("--batch-size", "2"),
    *("--set", "backbone.options.depth=1", "--set", "backbone.options.width=32", "--set", "backbone.options.heads=2"),
    *("--set", "flow.statistics_images=4"),
    *("--set", "logging.tensorboard=false"),
]
SMALLER_IN_PYTHON = (
    'max_steps=2, batch_size=2, device="cpu", flow={"statistics_images": 4}, '
    'backbone={"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2}}'
)
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e "


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "bash") for line in block.strip().splitlines()]


def smaller(arguments: list[str]) -> list[str]:
    """The same command with fewer steps and a shallower network; what it writes and says stays."""
    if arguments[0] != "train" or "--dry-run" in arguments:
        return arguments
    if "--resume" in arguments:
        return [*arguments, "--max-steps", "3"]
    return [*arguments, *SMALLER, *SMALLER_NEW]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photo and a folder of photos."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    for index in range(4):
        folder = tmp_path / "photos" / ("cats" if index % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        save_png(folder / f"{index}.png", to_pixels(torch.rand(3, 90, 70, generator=generator) * 2 - 1))
    Image.fromarray(to_pixels(torch.rand(3, 300, 400, generator=generator) * 2 - 1)).save("photo.jpg")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs(page: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for line in commands(page):
        command = line.rpartition("&& .venv/bin/")[2] if line.startswith(SET_UP) else line
        if not command.startswith("dfm "):
            assert line.startswith((SET_UP, "source .venv/bin/activate")), f"a command that no test runs: {line}"
            continue
        assert main(smaller(shlex.split(command)[1:])) == 0, f"{command}\n{capsys.readouterr().err}"
        ran += 1
    assert ran >= 8


def test_python_blocks_run(workplace: Path) -> None:
    found = blocks("README.md", "python")
    assert len(found) == 2
    for block in found:
        code = re.sub(r"max_steps=\d+", SMALLER_IN_PYTHON, block)
        exec(compile(code, "README.md", "exec"), {})
    assert (workplace / "model" / "model.safetensors").is_file()


def test_ci_runs_the_readme_s_test_command() -> None:
    lines = [line for line in commands("README.md") if line.endswith("pytest")]
    assert len(lines) == 1
    assert lines[0] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_links_point_to_files() -> None:
    for page in ["README.md", *map(str, (ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
