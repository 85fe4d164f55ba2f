"""Two processes train as one does, stop together, go on in any number, and refuse what would go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import distributed_workers as workers
import pytest
import torch
from distributed_processes import run_in_processes

from dfm_core.errors import NonFiniteLossError, WorldError

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
CHECKS = [
    workers.gradients,
    workers.three_steps,
    workers.in_bfloat16,
    workers.both_in_bfloat16,
    workers.what_blocks_gather,
    workers.stop_and_go,
    workers.without_blocks,
    workers.few_rows,
    workers.loss_that_breaks,
    workers.loss_that_breaks_sharded,
    workers.different_requests,
    workers.skipped_layers_replicated,
    workers.skipped_layers_sharded,
    workers.unequal_layers_sharded,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, list[Any]]:
    """What both processes told of every check."""
    return run_in_processes(CHECKS, folder)


def test_gradients_are_those_of_one_process(told: dict[str, list[Any]]) -> None:
    for differences in told["gradients"]:
        assert len(differences) == 16
        for (_, dtype, *_), value in differences.items():
            assert value <= TOLERANCE[dtype], differences


def test_three_steps_are_those_of_one_process(told: dict[str, list[Any]]) -> None:
    first, second = told["three_steps"]
    assert second == {}
    assert len(first) == 4
    for (_, dtype), values in first.items():
        assert max(values) <= TOLERANCE[dtype], first


@pytest.mark.parametrize("parallel", workers.PARALLEL)
def test_a_signal_to_one_process_stops_all_after_the_same_step(told: dict[str, list[Any]], parallel: str) -> None:
    # Asked at the beginning of each step: a signal in step 4 is known to all at the end of step 5.
    assert [each[f"{parallel} stopped"] for each in told["stop_and_go"]] == 2 * [(5, True, "step_00000005")]


@pytest.mark.parametrize("parallel", workers.PARALLEL)
def test_as_many_processes_go_on_bit_for_bit(told: dict[str, list[Any]], parallel: str) -> None:
    for each in told["stop_and_go"]:
        assert each[f"{parallel} same bits"]
        assert each[f"{parallel} same log"]


@pytest.mark.parametrize("way", ["ddp whole", "fsdp whole", "ddp to one", "fsdp to one", "ddp to fsdp", "fsdp to ddp"])
def test_another_number_or_another_sharing_goes_on_closely(told: dict[str, list[Any]], way: str) -> None:
    assert all(each[way] for each in told["stop_and_go"])


@pytest.mark.parametrize("way", ["one to ddp", "one to fsdp"])
def test_two_processes_go_on_with_the_run_of_one(told: dict[str, list[Any]], way: str) -> None:
    assert all(each[way] for each in told["stop_and_go"])


def test_a_network_without_blocks_is_sharded_as_one(told: dict[str, list[Any]]) -> None:
    assert max(told["without_blocks"]) <= TOLERANCE[torch.float64]


def test_fewer_rows_than_processes(told: dict[str, list[Any]]) -> None:
    assert told["few_rows"] == [[True, True], [True, True]]


@pytest.mark.parametrize("check", ["loss_that_breaks", "loss_that_breaks_sharded"])
def test_a_loss_that_breaks_in_one_process_stops_all(check: str, told: dict[str, list[Any]], folder: Path) -> None:
    first, second = told[check]
    assert isinstance(first, NonFiniteLossError)
    assert str(first) == str(second)
    assert str(first).startswith("the loss of stage_2 is nan at step 6 (")
    assert str(folder / check / "checkpoints" / "step_00000003") in str(first)


def test_processes_that_want_different_things_are_refused(told: dict[str, list[Any]]) -> None:
    first, second = told["different_requests"]
    assert isinstance(first, WorldError)
    assert str(first) == str(second)
    assert str(first).splitlines()[:-1] == ["process 1 has training.batch_size = 16, process 0 has 8"]


def test_layers_that_only_one_process_runs_are_right_when_replicated(told: dict[str, list[Any]]) -> None:
    assert told["skipped_layers_replicated"] == [True, None]


def test_layers_that_only_one_process_runs_are_caught_when_sharded(told: dict[str, list[Any]], folder: Path) -> None:
    """FSDP2 adds the gradient of one process's layer to that of another layer, without an error of its own."""
    first, second = told["skipped_layers_sharded"]
    assert isinstance(first, WorldError)
    assert str(first) == str(second)
    assert "at step 1 process 1 and process 0 ran different layers (stages.0.bias, stages.0.weight" in str(first)
    assert not list(folder.glob("skipped_layers_sharded/checkpoints/*"))


def test_unequal_layers_are_caught_before_they_end_a_process(told: dict[str, list[Any]]) -> None:
    first, second = told["unequal_layers_sharded"]
    assert isinstance(first, WorldError)
    assert str(first) == str(second)
    assert "at step 1 process 1 and process 0 ran different layers (stages.0, stages.1), and FSDP" in str(first)


def test_in_bfloat16(told: dict[str, list[Any]]) -> None:
    for differences in told["in_bfloat16"]:
        assert 1e-5 < min(differences.values()) <= max(differences.values()) < 0.02, differences


def test_in_bfloat16_as_one_process_in_bfloat16(told: dict[str, list[Any]]) -> None:
    for differences in told["both_in_bfloat16"]:
        assert max(differences.values()) <= TOLERANCE[torch.float32], differences


def test_sharded_weights_travel_in_the_type_of_autocast(told: dict[str, list[Any]]) -> None:
    for found in told["what_blocks_gather"]:
        expected = {"inside": [torch.bfloat16], "stored": [torch.float32], "gradients": [torch.float32]}
        assert found == expected, found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled(tmp_path: Path) -> None:
    for differences in run_in_processes([workers.compiled], tmp_path)["compiled"]:
        assert max(differences.values()) < 1e-5, differences
