"""Files of an evaluation: readable to whom the umask says, and a full disk is named as one."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dfm_core.errors import DFMError
from dfm_core.evaluation.reference_cache import ReferenceCache
from dfm_core.evaluation.sample_store import save_complete

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither umask nor limits of files")
LARGE = {"images": torch.zeros(20_000)}


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 4096 bytes: what the system then says is an OSError as of a full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path / "cache")
    with full_disk():
        with pytest.raises(DFMError, match=r"cannot write .*a\.safetensors: .*Is the disk full\? The same command"):
            save_complete(tmp_path / "a.safetensors", LARGE)
        with pytest.raises(DFMError, match=r"cannot write the reference .*Is the disk full\? --cache FOLDER puts them"):
            cache.store({"metric": {"name": "fid"}}, LARGE)
    assert [path.name for path in tmp_path.rglob("*")] == ["cache"]


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_who_may_read_them_is_the_umasks_choice(umask: int, folder: int, file: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        save_complete(tmp_path / "a.safetensors", LARGE)
        ReferenceCache(tmp_path / "cache").store({"metric": {"name": "fid"}}, LARGE)
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (folder if path.is_dir() else file), path
