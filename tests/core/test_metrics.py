"""The numbers of a metrics line beside the loss: by t, by parameter group, of the machine; they change nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_objective import make_objective, whole
from torch import Tensor, nn
from toy_training import CPU, FULL, Toy, ToyData, make, newest

from dfm_core.assembly import Assembler
from dfm_core.composition import DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.errors import CompositionError
from dfm_core.interfaces.backbone import Backbone, BackboneFacts
from dfm_core.interfaces.timestep_sampler import TimestepDraw
from dfm_core.loss_report import LossReport
from dfm_core.network_facts import parameter_groups, training_flops
from dfm_core.objective import RANGES_OF_T, sums_by_t
from dfm_core.plan import plan_training
from dfm_core.plugins.registry import default_registry
from dfm_core.training.clock import StepClock
from dfm_core.training.distributed import World
from dfm_core.training.loss_window import LossWindow
from dfm_core.training.metrics_log import flat_numbers, read_metrics
from dfm_core.training.utilisation import DeviceQueue, matmul_rate, peak_memory


def test_sums_by_t() -> None:
    errors = torch.tensor([[1.0, 5.0], [2.0, math.nan], [4.0, 7.0], [8.0, 9.0]])
    t = torch.tensor([[0.0, 0.3], [0.05, 0.3], [1.0, 0.99], [0.55, 0.2]])
    trained = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    sums, counts = sums_by_t(errors, TimestepDraw(t, trained, trained))
    assert sums.shape == counts.shape == (2, RANGES_OF_T)
    assert sums[0].tolist() == [3, 0, 0, 0, 0, 8, 0, 0, 0, 4]
    assert counts[0].tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert sums[1].tolist() == [0, 0, 0, 5, 0, 0, 0, 0, 0, 7]
    assert counts[1].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 1]


def test_the_parts_are_the_sums_over_t() -> None:
    objective = make_objective((8, 16), "laplacian", stage_probs=0.5)
    report = objective({"image": torch.rand(32, 3, 16, 16) * 2 - 1}, whole(32))
    assert report.parts_by_t is not None
    assert torch.equal(report.parts_by_t.sum(2), report.parts)
    assert int(report.parts[1].sum()) >= 32
    assert not report.parts_by_t.requires_grad


def report(sums: list[float], counts: list[float]) -> LossReport:
    by_t = torch.tensor([[sums[:2], sums[2:]], [counts[:2], counts[2:]]])
    return LossReport(torch.tensor(1.0), by_t.sum(2), ("coarse", "fine"), by_t)


def test_the_window_averages_by_t_over_samples_whenever_it_is_read() -> None:
    steps = [report([0.1, 0.7, 0.3, 0.0], [1, 2, 1, 0]), report([0.2, 0.0, 0.3, 0.0], [3, 0, 1, 0])]
    at_once, in_between = LossWindow(), LossWindow()
    for step in steps:
        at_once.append(step, torch.tensor(1.0))
        in_between.append(step, torch.tensor(1.0))
        in_between.read()
        resumed = LossWindow()
        resumed.load(json.loads(json.dumps(in_between.state())))
        in_between = resumed
    at_once.read()
    expected = {"coarse": {"0.25": 0.3 / 4, "0.75": 0.35}, "fine": {"0.25": 0.3}}
    for part, ranges in at_once.averages_by_t().items():
        assert ranges == pytest.approx(expected[part])
    assert in_between.averages_by_t() == at_once.averages_by_t()
    at_once.restart(2)
    assert at_once.averages_by_t() == {}


def test_the_window_sums_over_processes() -> None:
    class Two(World):
        def total(self, values: Tensor) -> Tensor:
            return torch.stack([values, values.flip(0)]).sum(0)  # the other process has the steps the other way round

    window = LossWindow(Two(size=2))
    window.append(report([0.5, 0.25, 4.0, 0.0], [1, 1, 2, 0]), torch.tensor(1.0))
    window.append(report([1.5, 0.0, 2.0, 3.0], [3, 0, 1, 1]), torch.tensor(1.0))
    window.read()
    assert window.averages()[1] == {"coarse": 2.25 / 5, "fine": 9 / 4}
    assert window.averages_by_t() == {"coarse": {"0.25": 0.5, "0.75": 0.25}, "fine": {"0.25": 2.0, "0.75": 3.0}}


def test_norms_of_parameter_groups(tmp_path: Path) -> None:
    module = Toy(dropout=0.0, norm=False)
    groups = {"everything": [name for name, _ in module.named_parameters()], "stage_2": ["last.weight"]}
    trainer = make(tmp_path, module, log_every=5, parameter_groups=groups, clip_norm=1e-3)
    trainer.train()
    for line in read_metrics(trainer.run):
        assert line["grad_norms"]["everything"] == pytest.approx(line["grad_norm"])  # both before clipping
        assert 0 < line["grad_norms"]["stage_2"] < line["grad_norm"]
    assert dict(flat_numbers(line))["grad_norms/stage_2"] == line["grad_norms"]["stage_2"]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_by_t_over_micro_batches(tmp_path: Path, accumulation: int) -> None:
    trainer = make(tmp_path, Toy(dropout=0.0, norm=False), max_steps=2, log_every=2, accumulation=accumulation)
    trainer.train()
    (line,) = read_metrics(trainer.run)
    assert set(line["loss_by_t"]["stage_1"]) == {"0.25", "0.75"}
    low, high = line["loss_by_t"]["stage_1"].values()
    assert min(low, high) <= line["parts"]["stage_1"] <= max(low, high)


class FakeTime:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_clock_shares_out_the_waiting_for_data() -> None:
    time, idle = FakeTime(), [True, True, False, True]
    clock = StepClock(time)
    clock.begin(0.0)

    def items() -> Iterator[int]:
        for seconds in (30, 2, 4, 2):
            time.now += seconds
            yield seconds

    waiting = clock.waiting(items(), lambda: idle.pop(0))
    next(waiting)
    time.now += 100  # compilation
    clock.lap(1)
    assert clock.waiting_share is None
    for _ in range(3):
        next(waiting)
        time.now += 4
    with clock.paused():
        time.now += 50
    clock.lap(4)
    assert clock.seconds_per_step == 20 / 3
    assert clock.waiting_share == 4 / 20  # the third came while the device was busy
    assert list(waiting) == []


def test_machine_numbers_of_a_run(tmp_path: Path) -> None:
    class SlowData(ToyData):
        def batches(self, start_step: int) -> Iterator[dict[str, Tensor]]:
            import time

            for batch in super().batches(start_step):
                time.sleep(0.02)
                yield batch

    trainer = make(tmp_path, data=SlowData(), log_every=5, flops=10**6)
    trainer.train()
    first, second = read_metrics(trainer.run)
    for line in (first, second):
        assert 0.1 < line["data_wait"] < 1
        seconds_per_step = FULL["batch_size"] / line["images_per_second"]
        assert line["utilisation"] == pytest.approx(1e6 / seconds_per_step / matmul_rate(CPU, torch.float32))
    assert 5e7 < first["peak_memory"] <= second["peak_memory"] < 1e11
    assert read_metrics(make(tmp_path / "off", flops=None, log_every=10).run) == []


def test_the_matmul_rate_is_measured_once_and_without_the_global_random_state() -> None:
    before = torch.get_rng_state()
    rate = matmul_rate(CPU, torch.float32)
    assert 1e8 < rate < 1e15
    assert matmul_rate(CPU, torch.float32) == rate
    assert torch.equal(torch.get_rng_state(), before)
    assert DeviceQueue(CPU).is_empty()
    assert (peak_memory(CPU) or 0) > 1e7


def test_flops_are_those_of_the_plan_and_counting_changes_nothing() -> None:
    values = {"stages": [8, 16], "backbone": {"name": "dit", "options": {"depth": 2, "width": 32, "heads": 2}}}
    config = resolve_config(ConfigRequest(values={"device": "cpu", "training": {"batch_size": 6}, **values})).config
    data = DataDescription(3, ("a", "b"))
    assembler = Assembler(config, default_registry())
    layout = assembler.decomposition(assembler.autoencoder(3, CPU)).layout((3, 16, 16))
    backbone = assembler.backbone(layout, data)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    random = torch.get_rng_state()
    assert training_flops(backbone, layout, 6, labelled=True) == plan_training(assembler, data).flops
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    groups = parameter_groups(backbone)
    assert list(groups) == ["stage_1", "stage_2"]
    assert {name for names in groups.values() for name in names} == {name for name in before if "stages." in name}


def test_a_backbone_may_say_nothing_of_its_stages_but_nothing_wrong() -> None:
    backbone = make_objective((8, 16), "laplacian").model.backbone
    assert isinstance(backbone, Backbone)
    assert parameter_groups(backbone) == {}
    layers: nn.ModuleList = backbone.layers  # type: ignore[assignment]
    backbone.stage_parameters = lambda: [list(layers[0].parameters())]  # type: ignore[method-assign]
    with pytest.raises(CompositionError, match="expected 2 stages, one entry each, got 1"):
        parameter_groups(backbone)
    backbone.stage_parameters = lambda: [[nn.Parameter(torch.zeros(1))]] * 2  # type: ignore[method-assign]
    with pytest.raises(CompositionError, match="parameters of the backbone itself"):
        parameter_groups(backbone)


def test_weights_do_not_depend_on_what_is_logged(tmp_path: Path) -> None:
    make(tmp_path / "much", log_every=1, flops=10**6).train()
    make(tmp_path / "little", log_every=100, parameter_groups={}, flops=None).train()
    much, little = (newest(tmp_path / name).tensors("weights") for name in ("much", "little"))
    assert all(torch.equal(much[key], little[key]) for key in much)


def test_facts_of_a_backbone_without_labels() -> None:
    objective = make_objective((8, 16), "laplacian")
    backbone = objective.model.backbone
    assert isinstance(backbone.facts, BackboneFacts)
    # 3×3 convolutions of 3 channels: 2 · 9 · 3 · 3 a pixel, forward and weights' gradient; no gradient of the input.
    assert training_flops(backbone, backbone.facts.layout, 5, labelled=False) == 5 * 2 * 2 * 81 * (64 + 256)
