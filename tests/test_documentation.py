"""Every command and every Python block of the README and docs runs, in their order, in one folder, made smaller."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from dfm_core.cli.app import main
from dfm_core.conformance import laws_of
from dfm_core.conformance.runner import BUILDS
from dfm_core.images import save_png, to_pixels
from dfm_core.plugins.kinds import KINDS

ROOT = Path(__file__).parents[1]
KIND_PAGES = [f"docs/kinds/{kind}.md" for kind in KINDS]
PAGES = ["README.md", "docs/commands.md", "docs/write_a_plugin.md", "docs/baselines.md", *KIND_PAGES]
FILE = re.compile(r"# file: (\w+\.py)\n")
"""First line of a Python block that readers are to save under that name."""
SMALLER = ["--max-steps", "2", "--device", "cpu"]
SMALLER_NEW = [
    *("--batch-size", "2"),
    *("--set", "flow.statistics_images=4"),
    *("--set", "logging.tensorboard=false"),
]
SMALLER_NETWORK = [
    *("--set", "backbone.options.depth=1", "--set", "backbone.options.width=32", "--set", "backbone.options.heads=2"),
]
SMALLER_IN_PYTHON = (
    'max_steps=2, batch_size=2, device="cpu", flow={"statistics_images": 4}, '
    'backbone={"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2}}'
)
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e "


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def files(page: str) -> dict[str, str]:
    """Files that a page tells to write: name -> content."""
    found = [(FILE.match(block), block) for block in blocks(page, "python")]
    return {match[1]: block[match.end() :] for match, block in found if match}


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "bash") for line in block.strip().splitlines()]


def smaller(arguments: list[str]) -> list[str]:
    """The same command with fewer steps and a shallower network; what it writes and says stays."""
    if arguments[0] != "train" or "--dry-run" in arguments:
        return arguments
    if "--resume" in arguments:
        return [*arguments, "--max-steps", "3"]
    network = [] if "--backbone" in arguments else SMALLER_NETWORK
    return [*arguments, *SMALLER, *SMALLER_NEW, *network]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photo, a folder of photos and the files that the pages tell to write."""
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for name, content in files(page).items():
            (tmp_path / name).write_text(content)
    generator = torch.Generator().manual_seed(0)
    for index in range(4):
        folder = tmp_path / "photos" / ("cats" if index % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        save_png(folder / f"{index}.png", to_pixels(torch.rand(3, 90, 70, generator=generator) * 2 - 1))
    Image.fromarray(to_pixels(torch.rand(3, 300, 400, generator=generator) * 2 - 1)).save("photo.jpg")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    # `dfm plugins check` trains a model: twenty seconds a page.
    [
        page if page in ("README.md", "docs/commands.md") else pytest.param(page, marks=pytest.mark.slow)
        for page in PAGES
    ],
)
def test_every_command_runs(page: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for line in commands(page):
        command = line.rpartition("&& .venv/bin/")[2] if line.startswith(SET_UP) else line
        if not command.startswith("dfm "):
            assert line.startswith((SET_UP, "source .venv/bin/activate")), f"a command that no test runs: {line}"
            continue
        assert main(smaller(shlex.split(command)[1:])) == 0, f"{command}\n{capsys.readouterr().err}"
        ran += 1
    assert ran >= (2 if page.startswith("docs/kinds") else 6)


def test_python_blocks_run(workplace: Path) -> None:
    found = [block for block in blocks("README.md", "python") if not FILE.match(block)]
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_s_page_lists_its_laws(kind: str) -> None:
    expected = [f"| `{law.name}` | {law.summary} |" for law in laws_of(kind)]
    table = (ROOT / f"docs/kinds/{kind}.md").read_text().rpartition("|---|---|\n")[2].strip().splitlines()
    assert sorted(table) == sorted(expected), "the table should be\n" + "\n".join(expected)


def test_the_page_lists_the_laws_of_a_model_and_all_that_a_spec_declares() -> None:
    page = (ROOT / "docs/write_a_plugin.md").read_text()
    for law in laws_of("composition"):
        assert f"| `{law.name}` | {law.summary} |" in page
    for kind in KINDS.values():
        assert f"`{kind.hook}`" in page
        declared = kind.spec("name", "summary", "module:Class").capabilities()
        assert [field for field in declared if f"`{field}`" not in page] == []
    assert f"`{BUILDS}`" in page


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_s_example_is_short(kind: str) -> None:
    (example,) = (block for block in blocks(f"docs/kinds/{kind}.md", "python") if FILE.match(block))
    assert len(example.splitlines()) <= 40


def test_the_plugin_on_the_page_is_one(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(workplace)
    code = (
        "import sys, acme_plugin; (spec,) = acme_plugin.dfm_decompositions(); "
        "print(spec.name, spec.options().orientations, acme_plugin.DFM_PLUGIN_API, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=workplace)
    assert done.stdout == "steerable 4 1 False\n", done.stderr


def test_the_laws_on_the_page_are_tests(workplace: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_laws.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=workplace)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 10
