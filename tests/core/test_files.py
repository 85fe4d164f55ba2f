"""What has its final name is on the disk, name and content, in that order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfm_core.files import complete_or_absent, put_in_place
from dfm_core.latent_shards import write_json
from dfm_core.training.run_directory import replace_text


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the disk, in order."""
    calls, fsync, replace = [], os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append("folder" if place.is_dir() else f"content of {place.stat().st_size} bytes")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        calls.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    return calls


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="sees open files as Linux shows them")
@pytest.mark.parametrize("way", ["complete_or_absent", "replace_text", "write_json", "put_in_place"])
def test_content_then_name_then_folder(way: str, tmp_path: Path, done: list[str]) -> None:
    target = tmp_path / "file"
    if way == "complete_or_absent":
        with complete_or_absent(target) as temporary:
            temporary.write_bytes(b"{}")
    elif way == "replace_text":
        replace_text(target, "{}")
    elif way == "write_json":
        write_json(target, {})
    else:
        (tmp_path / "partial").write_bytes(b"{}")
        put_in_place(tmp_path / "partial", target)
    assert done == ["content of 2 bytes", "name", "folder"]
    assert target.read_bytes() == b"{}"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_remains_of_what_fails(tmp_path: Path) -> None:
    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), complete_or_absent(tmp_path / "new" / "file") as temporary:
        fail(temporary)
    assert not [*(tmp_path / "new").iterdir()]
