"""Checkpoints written on the way: the same bits, one after the other, and failures that training survives."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import Toy, ToyObjective, assert_equal_runs, make, newest

from dfm_core.errors import CheckpointError
from dfm_core.training import checkpoint_writer as module
from dfm_core.training.checkpoint import list_checkpoints, save_checkpoint
from dfm_core.training.checkpoint_writer import CheckpointWriter, HostCopies

PATIENCE = 30


def groups(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {"a": torch.full((64,), value)} for name in ("weights", "ema", "optimizer")}


class Gate:
    """Stands for `save_checkpoint`: lets a checkpoint through when it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.begun, self.inside, self.most = threading.Event(), [], 0, 0
        monkeypatch.setattr(module, "save_checkpoint", self)

    def __call__(self, run: Path, step: int, *rest: Any) -> Path:
        self.begun.append((step, threading.current_thread() is threading.main_thread()))
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            assert self.opened.wait(PATIENCE), "the loop waited for the checkpoint"
            return save_checkpoint(run, step, *rest)
        finally:
            self.inside -= 1


def test_the_files_are_those_of_a_loop_that_waits(tmp_path: Path) -> None:
    for name, background in (("a", True), ("b", False)):
        make(tmp_path / name, async_checkpoints=background, checkpoint_every=3, keep_checkpoints=9).train()
    both = [list_checkpoints(tmp_path / name) for name in ("a", "b")]
    assert [path.name for path in both[0]] == [f"step_{step:08d}" for step in (3, 6, 9, 10)]
    for left, right in zip(*both, strict=True):
        for name in ("weights", "ema", "optimizer"):
            assert (left / f"{name}.safetensors").read_bytes() == (right / f"{name}.safetensors").read_bytes()


def test_the_loop_goes_on_and_the_end_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "whole", checkpoint_every=4).train()
    gate, toy = Gate(monkeypatch), Toy()

    def at(step: int) -> float:
        if step == 7:  # the checkpoint after step 4 is still being written
            gate.opened.set()
        return 0.0

    trainer = make(tmp_path / "run", toy, objective=ToyObjective(toy, break_at=at), checkpoint_every=4)
    assert trainer.train().checkpoint == newest(tmp_path / "run").path
    assert gate.begun == [(4, False), (8, False), (10, True)]
    assert gate.most == 1
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")
    assert all(
        torch.equal(saved, toy.state_dict()[name])
        for name, saved in newest(tmp_path / "run").tensors("weights").items()
    )


def test_what_changes_after_a_save_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, tensors = Gate(monkeypatch), groups(1.0)
    rows = [[1.0]]
    writer = CheckpointWriter(tmp_path, 3, True, pytest.fail)
    writer.save(1, tensors, {"rows": rows})
    tensors["weights"]["a"].zero_()
    rows.append([2.0])
    gate.opened.set()
    writer.close()
    saved = newest(tmp_path)
    assert torch.equal(saved.tensors("weights")["a"], torch.ones(64))
    assert saved.state["rows"] == [[1.0]]


@pytest.mark.parametrize("background", [True, False])
def test_a_failure_is_a_warning_and_the_last_one_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    warnings: list[str] = []
    writer = CheckpointWriter(tmp_path, 1, background, warnings.append)
    writer.save(1, groups(1.0), {})
    writer.settle()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dfm_core.training.checkpoint.write_tensors", full)
    writer.save(2, groups(2.0), {})
    writer.settle()
    writer.report()
    (warning,) = warnings
    assert "could not write checkpoint" in warning
    assert "training goes on" in warning
    with pytest.raises(CheckpointError, match="No space left"):
        writer.save_last(2, groups(2.0), {})
    monkeypatch.undo()
    assert newest(tmp_path).step == 1
    writer.save(2, groups(2.0), {})
    writer.close()
    assert newest(tmp_path).step == 2
    assert len(warnings) == 1


def test_a_step_that_has_a_checkpoint_gets_no_second_one(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 1, True, pytest.fail)
    writer.save(5, groups(1.0), {})
    writer.settle()
    stamp = newest(tmp_path).path.stat().st_mtime_ns
    writer.save_last(5, groups(1.0), {})
    assert newest(tmp_path).path.stat().st_mtime_ns == stamp


def test_an_interrupt_that_may_not_wait_breaks_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, toy = Gate(monkeypatch), Toy()

    def at(step: int) -> float:
        if step == 5:
            threading.Timer(0.1, gate.opened.set).start()
            raise KeyboardInterrupt
        return 0.0

    trainer = make(tmp_path, toy, objective=ToyObjective(toy, break_at=at), checkpoint_every=4)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert gate.begun == [(4, False)]
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert trainer.reporter.warnings == []  # type: ignore[attr-defined]


def test_the_memory_of_copies_is_used_again() -> None:
    copies = HostCopies()
    base = torch.arange(6.0).reshape(2, 3)
    before = copies.take({"weights": {"a": base.t(), "b": torch.tensor(1.0)}})["weights"]
    places = {name: tensor.data_ptr() for name, tensor in before.items()}
    after = copies.take({"weights": {"a": base.t() + 1, "b": torch.tensor(2.0)}})["weights"]
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == places
    assert torch.equal(after["a"], base.t() + 1)
    assert after["a"].is_contiguous()
    assert copies.take({"weights": {"a": torch.ones(4)}})["weights"]["a"].shape == (4,)


def test_what_was_gathered_into_the_copies_is_copied_once() -> None:
    copies, gathered = HostCopies(), torch.ones(2, 3)
    kept = copies.keep("weights", "a", gathered)
    taken = copies.take({"weights": {"a": kept, "b": torch.ones(1)}})["weights"]["a"]
    assert kept.data_ptr() == taken.data_ptr() != gathered.data_ptr()
    assert torch.equal(taken, gathered)


def test_what_is_gathered_waits_for_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    writer = CheckpointWriter(tmp_path, 3, True, pytest.fail)
    kept = {name: {"a": writer.keep(name, "a", torch.ones(4))} for name in ("weights", "ema", "optimizer")}
    writer.save(1, kept, {})
    threading.Timer(0.2, gate.opened.set).start()
    assert torch.equal(writer.keep("weights", "a", torch.zeros(4)), torch.zeros(4))
    assert gate.opened.is_set()
    assert torch.equal(newest(tmp_path).tensors("weights")["a"], torch.ones(4))
    writer.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copies_from_a_gpu_are_page_locked() -> None:
    source = torch.randn(1000, 1000, device="cuda")
    copy = HostCopies().take({"weights": {"a": source}})["weights"]["a"]
    assert copy.is_pinned()
    assert torch.equal(copy, source.cpu())
