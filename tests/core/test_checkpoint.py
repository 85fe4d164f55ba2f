"""Checkpoints: complete or absent, verified, never unpickled, and safe from full disks and kills."""

from __future__ import annotations

import ast
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dfm_core.errors import CheckpointError
from dfm_core.training import checkpoint as module
from dfm_core.training.checkpoint import list_checkpoints, load_newest, open_checkpoint, save_checkpoint

Tensors = dict[str, dict[str, Tensor]]


def tensors(value: float = 1.0) -> Tensors:
    return {
        name: {"a": torch.full((64, 8), value), "b": torch.tensor(value)} for name in ("weights", "ema", "optimizer")
    }


def save(run: Path, step: int, keep: int = 5) -> Path:
    return save_checkpoint(run, step, tensors(float(step)), {"snapshot": {}}, keep)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_round_trip_of_shared_transposed_and_scalar_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    weights = {
        "base": base,
        "tied": base,
        "transposed": base.t(),
        "row": base[1],
        "step": torch.tensor(7.0),
        "empty": torch.zeros(0),
        "none": torch.zeros(0, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor([1, 2]),
        "mask": torch.tensor([True, False, True]),
        "byte": torch.tensor(3, dtype=torch.uint8),
        "expanded": torch.ones(1).expand(3),
        "ä/é": torch.ones(3, dtype=torch.float16),
    }
    before = {key: value.clone() for key, value in weights.items()}
    path = save_checkpoint(tmp_path, 3, {"weights": weights}, {"snapshot": {}}, 1)
    loaded = open_checkpoint(path).tensors("weights")
    assert loaded.keys() == weights.keys()
    for key, value in weights.items():
        assert torch.equal(loaded[key], value)
        assert loaded[key].dtype == value.dtype
        assert torch.equal(value, before[key])


def test_state_is_json_and_exact(tmp_path: Path) -> None:
    sigma = torch.tensor([0.1, 1 / 3], dtype=torch.float64)
    snapshot = {"config": {"stages": (256, 512), "path": Path("x")}, "statistics": {"rms": sigma}, "none": None}
    path = save_checkpoint(tmp_path, 12, tensors(), {"snapshot": snapshot, "seconds": 0.1}, 1)
    loaded, warnings = load_newest(tmp_path)
    assert (loaded.path, loaded.step, warnings) == (path, 12, [])
    assert path.name == "step_00000012"
    assert loaded.state["snapshot"]["config"] == {"stages": [256, 512], "path": "x"}
    assert torch.equal(torch.tensor(loaded.state["snapshot"]["statistics"]["rms"], dtype=torch.float64), sigma)
    assert loaded.state["torch"] == torch.__version__
    assert set(loaded.state["files"]) == {"weights.safetensors", "ema.safetensors", "optimizer.safetensors"}


def test_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100, 99999999, 100000000):
        save(tmp_path, step, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_99999999", "step_100000000"]
    assert load_newest(tmp_path)[0].step == 100000000


def test_those_of_chosen_steps_are_kept_besides(tmp_path: Path) -> None:
    for step in range(1, 8):
        save_checkpoint(tmp_path, step, tensors(), {"snapshot": {}}, 2, kept=(2, 3))
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["2", "3", "6", "7"]


def test_older_ones_stay_until_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, keep=1)

    def killed(_source: Path, _target: Path) -> None:
        raise SystemExit("killed just before the rename")

    monkeypatch.setattr(module.os, "replace", killed)
    with pytest.raises(SystemExit):
        save(tmp_path, 2, keep=1)
    monkeypatch.undo()
    assert names(tmp_path) == ["step_00000001"]


def test_a_later_broken_one_does_not_cost_the_new_one(tmp_path: Path) -> None:
    save(tmp_path, 100)
    save(tmp_path, 200)
    (tmp_path / "checkpoints/step_00000200/state.json").unlink()
    save(tmp_path, 150, keep=1)
    assert names(tmp_path) == ["step_00000150", "step_00000200"]
    assert load_newest(tmp_path)[0].step == 150


def truncate(path: Path) -> None:
    os.truncate(path / "weights.safetensors", 40)


def flip(path: Path) -> None:
    file = path / "ema.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def remove(path: Path) -> None:
    (path / "optimizer.safetensors").unlink()


def cut_state(path: Path) -> None:
    os.truncate(path / "state.json", 30)


def no_step(path: Path) -> None:
    state = json.loads((path / "state.json").read_text())
    del state["step"]
    (path / "state.json").write_text(json.dumps(state))


def newer_format(path: Path) -> None:
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format": 99}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "weights.safetensors is not as it was written"),
        (flip, "ema.safetensors is not as it was written"),
        (remove, "optimizer.safetensors is missing"),
        (cut_state, "state.json is missing or damaged"),
        (no_step, "state.json is not as it was written"),
        (newer_format, "has format 99, this version reads 2"),
    ],
)
def test_broken_ones_are_passed_over_and_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    checkpoint, warnings = load_newest(tmp_path)
    assert checkpoint.step == 1
    assert len(warnings) == 1
    assert message in warnings[0]
    assert "step_00000002" in warnings[0]
    assert "using the older step_00000001" in warnings[0]

    damage(tmp_path / "checkpoints/step_00000001")
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load_newest(tmp_path)


def test_a_damaged_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    flip(save(tmp_path, 1))
    save(tmp_path, 1)
    assert names(tmp_path) == ["step_00000001"]
    assert load_newest(tmp_path)[0].step == 1


def test_no_run_and_no_checkpoint_yet(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not the folder of a run"):
        load_newest(tmp_path / "nothing")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        load_newest(tmp_path)


def test_stale_partial_folders_go(tmp_path: Path) -> None:
    stale = tmp_path / "checkpoints/.partial-step_00000009-123"
    stale.mkdir(parents=True)
    (stale / "weights.safetensors").write_bytes(b"half")
    save(tmp_path, 10)
    assert names(tmp_path) == ["step_00000010"]


def test_stale_partial_folders_go_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = tmp_path / "checkpoints/.partial-step_00000009-123"
    stale.mkdir(parents=True)
    seen: list[bool] = []
    monkeypatch.setattr(module, "write_tensors", lambda *_: seen.append(stale.exists()) or {})
    save(tmp_path, 10)
    assert seen == [False] * 3  # their space is needed


@pytest.mark.parametrize("call", ["write_tensors", "flush", "_put_in_place", "json.dumps", "os.replace"])
def test_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    save(tmp_path, 1, keep=1)
    before = {file: file.read_bytes() for file in (tmp_path / "checkpoints/step_00000001").iterdir()}

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"dfm_core.training.checkpoint.{call}", full)
    with pytest.raises(CheckpointError, match=r"could not write .*step_00000002.*Is the disk full"):
        save(tmp_path, 2, keep=1)
    monkeypatch.undo()
    assert names(tmp_path) == ["step_00000001"]
    assert all(file.read_bytes() == content for file, content in before.items())


@pytest.mark.parametrize("limit", [0, 100, 2100])
def test_files_that_the_system_refuses_to_grow(tmp_path: Path, limit: int) -> None:
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CheckpointError, match="could not write"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step_00000001"]
    assert save(tmp_path, 2).is_dir()


def test_a_second_interrupt_leaves_nothing_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "flush", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1)
    assert names(tmp_path) == []


def test_nothing_is_unpickled() -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {"torch.load", "torch.save"} & called
    assert "pickle" not in imported


@pytest.mark.parametrize("change", [0x01, 0xFF])
def test_any_changed_byte_is_noticed(tmp_path: Path, change: int) -> None:
    save(tmp_path, 1)
    path = save_checkpoint(tmp_path, 2, tensors(), {"name": "ä", "numbers": [0.1, float("nan")]}, 5)
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        whole = range(len(content)) if file.name == "state.json" else (0, 7, 8, 20, len(content) // 2, -1)
        for position in whole:
            changed = bytearray(content)
            changed[position] ^= change
            file.write_bytes(changed)
            with pytest.raises(CheckpointError, match="step_00000002"):
                open_checkpoint(path)
        checkpoint, warnings = load_newest(tmp_path)
        assert (checkpoint.step, len(warnings)) == (1, 1)
        assert file.name in warnings[0]
        file.write_bytes(content)
    assert load_newest(tmp_path)[0].step == 2


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b", "..", "other.safetensors"])
def test_a_checkpoint_opens_no_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = save(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    del state["sha256"]
    state["files"][name] = state["files"]["ema.safetensors"]
    (path / "state.json").write_bytes(module._sealed(state))
    opened: list[Path] = []
    monkeypatch.setattr(module, "_fingerprint", opened.append)
    with pytest.raises(CheckpointError, match="names files that belong to none"):
        open_checkpoint(path)
    assert opened == []


def test_numbers_that_the_format_lacks(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="spectrum is of torch.complex64, which no checkpoint can hold"):
        save_checkpoint(tmp_path, 1, {"weights": {"spectrum": torch.ones(2, dtype=torch.complex64)}}, {}, 1)
    assert names(tmp_path) == []


def test_unreadable_tensors_are_an_error(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save(tmp_path, 1))
    truncate(checkpoint.path)
    with pytest.raises(CheckpointError, match=r"cannot read .*weights\.safetensors"):
        checkpoint.tensors("weights")
