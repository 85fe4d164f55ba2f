"""What the processes of a run agree on, with the others played: versions, data, statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch

from dfm_core.assembly import Assembler
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.errors import WorldError
from dfm_core.plugins.registry import default_registry
from dfm_core.runs import processes as run_processes
from dfm_core.runs.processes import check_data, compose_alike, joined_processes
from dfm_core.runs.start import describe_data
from dfm_core.stage_space import StageStatistics
from dfm_core.training.distributed import World


@dataclass(frozen=True)
class Pair(World):
    """Two processes, of which the other has what `others` makes of this one's."""

    size: int = 2
    others: Callable[[Any], Any] = lambda value: value

    def gather(self, value: Any) -> list[Any]:
        both = [value, self.others(value)]
        return both if self.is_first else both[::-1]


@pytest.fixture
def assembler() -> Assembler:
    registry = default_registry()
    values = {"device": "cpu", "stages": [8, 16], "training": {"batch_size": 4}}
    network = {"backbone": {"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2}}}
    return Assembler(resolve_config(ConfigRequest(values=values | network), registry).config, registry)


@pytest.mark.parametrize(
    ("key", "value"),
    [("backbone plugin.version", '"9.9"'), ("torch", '"1.0"'), ("training.learning_rate", "7"), ("seed", "5")],
)
def test_other_versions_or_settings_are_refused(
    key: str, value: str, assembler: Assembler, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: dict[str, str] = {}

    def other(values: dict[str, str]) -> dict[str, str]:
        own.update(values)
        return values | {key: value}

    @contextmanager
    def joined(_device: torch.device) -> Iterator[World]:
        yield Pair(others=other)

    monkeypatch.setattr(run_processes, "joined_world", joined)
    with pytest.raises(WorldError) as caught, joined_processes(assembler):
        raise AssertionError("they went on")
    assert str(caught.value).splitlines() == [
        f"process 1 has {key} = {value}, process 0 has {own[key]}",
        "all processes of a run need the same command, files and versions",
    ]
    assert key in own


def test_other_data_is_refused(assembler: Assembler) -> None:
    dataset = assembler.dataset()
    check_data(Pair(), dataset)
    with pytest.raises(WorldError, match=f"process 1 has samples of the data = 9, process 0 has {len(dataset)}"):
        check_data(Pair(others=lambda values: values | {"samples of the data": "9"}), dataset)
    with pytest.raises(WorldError, match="process 1 has classes of the data"):
        check_data(Pair(others=lambda values: values | {"classes of the data": "[]"}), dataset)


def test_statistics_are_those_of_the_first_process(assembler: Assembler) -> None:
    data, made, told = describe_data(assembler.dataset()), StageStatistics((0.5, 0.25), (0.4, 0.2), 7), []

    def never() -> Iterator[dict[str, torch.Tensor]]:
        raise AssertionError("only the first process looks at data")
        yield

    composition = compose_alike(Pair(index=1, others=lambda _: asdict(made)), assembler, data, never())
    assert composition.statistics == made
    images = [{"image": torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))}]
    first = compose_alike(Pair(others=told.append), assembler, data, images)
    assert told == [asdict(first.statistics)]
    assert first.statistics.num_images == 4
