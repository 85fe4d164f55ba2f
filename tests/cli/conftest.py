"""Fixtures of the command tests: `dfm` in this process, one tiny run of each sort."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_tools import TINY, Dfm, Rejected, Result, write_picture

from dfm_core.cli.app import main


@pytest.fixture
def dfm(capsys: pytest.CaptureFixture[str]) -> Dfm:
    """Run `dfm` in this process."""

    def run(*arguments: object, code: int | None = 0) -> Result:
        capsys.readouterr()
        result = Result(main([str(argument) for argument in arguments]), *capsys.readouterr())
        assert code is None or result.code == code, f"exit code {result.code}\n{result.out}\n{result.err}"
        return result

    return run


@pytest.fixture
def rejected(dfm: Dfm) -> Rejected:
    """Run `dfm`, which must fail with an error message and no traceback, and return the message."""

    def run(*arguments: object, code: int = 2) -> str:
        result = dfm(*arguments, code=code)
        assert "Traceback" not in result.err
        assert "this is a bug" not in result.err
        assert result.out == "" or "step" in result.out  # nothing but the steps before it
        message = result.err.rpartition("error: ")[2]
        assert message, result.err
        return " ".join(message.split())

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps on `shapes`, with checkpoints after 4 and 6. Not to be changed: see `run`."""
    path = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--quiet", "--max-steps", "6", "--set", "logging.checkpoint_every=4", "--output", str(path)]
    assert main(["train", *TINY, *flags]) == 0
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed at will."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 24 images without labels."""
    for index in range(24):
        write_picture(tmp_path / "photos" / f"{index:02d}.png", index)
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on images without labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for index in range(12):
        write_picture(folder / "photos" / f"{index:02d}.png", index)
    flags = ["--quiet", "--max-steps", "2", "--data", str(folder / "photos"), "--output", str(folder / "run")]
    assert main(["train", *TINY, *flags]) == 0
    return folder / "run"
