"""A process alone starts nothing; what cannot train together is refused before anything starts."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dfm_core.config.settings import TrainingSettings
from dfm_core.errors import DeviceError, DFMError, LostProcessError, WorldError
from dfm_core.training.distributed import World, check_same, joined_world, lost_processes_named
from dfm_core.training.parallel import messages, sharded_like, whole

TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_world_of_one() -> None:
    with joined_world(CPU, {}) as world, joined_world(CPU, {"WORLD_SIZE": "1"}) as other:
        assert world == other == World()
        assert not dist.is_initialized()
    wishes = iter([False, True])
    answer = world.ask(lambda: next(wishes))
    assert [answer(), answer()] == [False, True]  # the wish of the moment
    assert world.gather([1]) == [[1]]
    assert world.once(lambda: "made") == "made"
    check_same(world, {"seed": 0})
    tensor = torch.ones(2)
    assert whole(tensor) is sharded_like(tensor, tensor) is world.total(tensor) is tensor


@pytest.mark.parametrize(("batch", "size"), [(8, 1), (8, 2), (12, 3), (5, 5)])
def test_parts_make_up_the_batch(batch: int, size: int) -> None:
    parts = [range(*World(index, size).part(batch)) for index in range(size)]
    assert [index for part in parts for index in part] == list(range(batch))
    assert len({len(part) for part in parts}) == 1


@pytest.mark.parametrize(
    ("batch", "size", "advice"),
    [
        (16, 3, "15 or 18 (training.batch_size), or 1, 2, 4, 8, 16 processes"),
        (2, 4, "4 (training.batch_size), or 1, 2"),
    ],
)
def test_a_batch_that_cannot_be_split_evenly(batch: int, size: int, advice: str) -> None:
    with pytest.raises(WorldError) as caught:
        World(0, size).part(batch)
    assert f"a batch of {batch} cannot be split evenly over {size} processes" in str(caught.value)
    assert advice in str(caught.value)


def refused(device: torch.device, environment: dict[str, str]) -> str:
    with pytest.raises(DFMError) as caught, joined_world(device, environment):
        raise AssertionError
    assert isinstance(caught.value, WorldError | DeviceError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("device", "changes", "message"),
    [
        ("cpu", {"RANK": "one"}, "expected a number in the variable RANK, got 'one'"),
        ("cuda:1", {}, "each takes a GPU of its own: use --device cuda, got cuda:1"),
        ("cuda", {"LOCAL_WORLD_SIZE": "3"}, "3 processes on this machine need as many CUDA devices, it has 2"),
        ("mps", {}, "several processes train on cpu or cuda, got mps"),
    ],
)
def test_places_that_do_not_work(
    device: str, changes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert message in refused(torch.device(device), TWO | changes)


def test_a_number_of_processes_without_their_places() -> None:
    assert "got None: start processes with `dfm train --nproc N` or torchrun" in refused(CPU, {"WORLD_SIZE": "2"})


def test_missing_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    assert "need a torch with NCCL" in refused(CUDA, TWO)
    monkeypatch.setattr(dist, "is_gloo_available", lambda: False)
    assert "torch.distributed and gloo" in refused(CPU, TWO)


def test_errors_of_a_vanished_process_are_named() -> None:
    gloo = (
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:17. Check the logs."
    )
    with pytest.raises(LostProcessError) as caught, lost_processes_named("while it trained"):
        raise RuntimeError(gloo)
    expected = "another process of this run ended while it trained (Connection closed by peer [::1]:17)"
    assert str(caught.value) == expected
    with (
        pytest.raises(LostProcessError, match=r"^another process of this run ended \(Conn.*:17\)$"),
        lost_processes_named(),
    ):
        raise RuntimeError(gloo)
    with pytest.raises(LostProcessError), lost_processes_named("at work"):
        raise dist.DistBackendError("NCCL communicator was aborted")
    with pytest.raises(RuntimeError, match="shapes differ"), lost_processes_named("at work"):
        raise RuntimeError("shapes differ")


def test_a_network_that_names_no_blocks_is_told_of() -> None:
    together, settings = World(0, 2), TrainingSettings(parallel="fsdp", checkpointing="full")
    assert messages([nn.Linear(1, 1)], settings, together) == []
    assert messages([], TrainingSettings(), together) == []
    sharding, recomputing = messages([], settings, together)
    assert "FSDP shards the whole network as one unit" in sharding
    assert "training.checkpointing=full has no effect" in recomputing
    assert messages([], settings, World()) == [recomputing]
