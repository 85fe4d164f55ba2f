"""Fixtures of the comparison tests: `dfm` in this process, a cache of their own, a tiny file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from comparison_files import TINY, write

from dfm_core.cli.app import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of references stay out of the user's cache; runs are written to a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """The tiny comparison as a file."""
    return write(tmp_path / "tiny.yaml", TINY)


@pytest.fixture
def rejected(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `dfm`, which must fail with one error and no traceback, and return its message."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        err = capsys.readouterr().err
        assert code == 2, err
        assert "Traceback" not in err
        assert "this is a bug" not in err
        return " ".join(err.rpartition("error: ")[2].split())

    return run
