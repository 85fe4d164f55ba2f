"""The number of threads follows the container's share of the machine, not only the cores that are seen."""

from __future__ import annotations

import os
from contextvars import copy_context
from pathlib import Path

import pytest

from dfm_core.cli import threads

V2, V1 = "0::/job/step\n", "3:cpuset:/\n1:cpu,cpuacct:/job\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files", "quotas"),
    [
        (V2, {"job/cpu.max": "150000 100000\n", "job/step/cpu.max": "max 100000\n"}, [1.5]),
        (V2, {"cpu.max": "400000 100000\n", "job/step/cpu.max": "300000 100000\n"}, [3.0, 4.0]),
        (V1, {"cpu,cpuacct/job/cpu.cfs_quota_us": "50000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, [0.5]),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, []),
        (V2, {"cpu.max": "nonsense"}, []),
        ("", {}, []),
    ],
)
def test_quotas_of_both_versions(own: str, files: dict[str, str], quotas: list[float], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "own").write_text(own)
    assert list(threads.cpu_quotas(tmp_path, tmp_path / "own")) == quotas
    assert list(threads.cpu_quotas(tmp_path, tmp_path / "none")) == []


def limited(affine: int, quotas: list[float], before: str | None, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """OMP_NUM_THREADS of a plain process (`-`: not set), and of each of two."""
    monkeypatch.setattr(threads, "affine_cores", lambda: affine)
    monkeypatch.setattr(threads, "cpu_quotas", lambda: iter(quotas))
    monkeypatch.setenv(threads.THREADS, "")
    os.environ.pop(threads.THREADS) if before is None else monkeypatch.setenv(threads.THREADS, before)

    def both() -> tuple[str, str]:
        threads.limit_threads()
        return os.environ.get(threads.THREADS, "-"), threads.threads_of_each(2)

    return copy_context().run(both)


def test_threads_are_no_more_than_the_quota_pays_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limited(64, [4.0, 8.0], None, monkeypatch) == ("4", "2")
    assert limited(64, [0.5], None, monkeypatch) == ("1", "1")
    assert limited(2, [8.0], None, monkeypatch) == ("-", "1")
    assert limited(6, [], None, monkeypatch) == ("-", "3")
    assert limited(64, [4.0], "7", monkeypatch) == ("7", "7")
