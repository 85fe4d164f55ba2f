"""The parts of `dfm bench`: its step is the trainer's, its pairs are fair, its batch size follows from what it saw."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dfm_core.bench.batch_sizes import measure_batch_sizes, recommend
from dfm_core.bench.machine import available_memory
from dfm_core.bench.measure import Effort, against_plain, comparison_size, measure_subject
from dfm_core.bench.plain import plain_objective
from dfm_core.bench.report import BatchSize
from dfm_core.bench.step import PARTS, Stopwatch, TrainingStep, of_size
from dfm_core.bench.subject import Subject, make_subject
from dfm_core.bench.variants import measure_variants, ways
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.config.run_config import RunConfig
from dfm_core.network_facts import training_flops
from dfm_core.plugins.registry import default_registry
from dfm_core.training.distributed import World
from dfm_core.training.learner import Learner
from dfm_core.training.utilisation import peak_memory

CPU = torch.device("cpu")
NETWORK = {"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2}}
BRIEF = Effort(seconds=0.1, step_seconds=0.05, steps=(1, 2), compiles=False)


def config_of(**values: object) -> RunConfig:
    base = {"device": "cpu", "stages": [8, 16], "backbone": NETWORK, "training": {"batch_size": 4}}
    return resolve_config(ConfigRequest(values={**base, **values})).config


def subject_of(**values: object) -> Subject:
    return make_subject(config_of(**values), default_registry())


def batch_of(size: int) -> dict[str, Tensor]:
    images = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return {"image": images, "label": torch.arange(size)}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_is_the_trainer_s(accumulation: int) -> None:
    config = config_of(training={"batch_size": 4, "accumulation": accumulation, "checkpointing": "full"})
    measured, trained = (make_subject(config, default_registry()) for _ in range(2))
    module = trained.composition.model.backbone
    own, reference = measured.step, trained.composition.objective()
    learner = Learner(module, reference, config.training, CPU, config.seed, World())
    for index in range(3):
        own(batch_of(4), None, accumulation)
        learner.step(index, batch_of(4))
    weights = learner.tensors()["weights"]
    assert all(torch.equal(weights[name], value) for name, value in own.module.state_dict().items())
    averages = learner.tensors()["ema"]
    assert all(torch.equal(averages[name], value) for name, value in own._ema.state_dict().items())


def test_parts_add_up_to_the_step() -> None:
    subject = subject_of()
    batch = batch_of(4)
    subject.step(batch, None)
    watch = Stopwatch(CPU)
    start = time.perf_counter()
    subject.step(batch, None, 2, watch.lap)
    whole = time.perf_counter() - start
    assert list(watch.seconds) == list(PARTS)
    assert all(seconds > 0 for seconds in watch.seconds.values())
    assert sum(watch.seconds.values()) == pytest.approx(whole, rel=0.2, abs=2e-3)


def test_a_failed_step_leaves_no_gradient() -> None:
    subject = subject_of()

    def fails(part: str) -> None:
        if part == "backward":
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        subject.step(batch_of(2), None, 1, fails)
    assert all(parameter.grad is None for parameter in subject.step.module.parameters())


def test_plain_flow_matching_is_the_one_of_identity() -> None:
    subject = subject_of()
    plain = plain_objective(subject.assembler, subject.composition).model.backbone
    reference = subject_of(decomposition="identity", stages=[16]).composition.model.backbone
    assert {k: v.shape for k, v in plain.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    assert plain.describe() == reference.describe()
    assert training_flops(plain, plain.facts.layout, 1, True) == training_flops(
        reference, reference.facts.layout, 1, True
    )


def test_networks_that_differ_are_named() -> None:
    found = against_plain(subject_of(stages=[8, 12]), of_size({"image": torch.zeros(1, 3, 12, 12)}, 2), 0.0)
    assert found.flops is not None
    assert found.flops < 0.5
    assert found.flops is not None
    assert found.per_flop is not None
    assert found.flops < 0.5
    assert found.per_flop.median == pytest.approx(found.ratio.median / found.flops)
    assert found.networks == "tokens 4x4 = 16, patches 2, 3 against tokens 12x12 = 144, patches 1"
    options = {"depth": 6, "width": 32, "heads": 2, "token_grid": 8}
    subject = subject_of(backbone={"name": "dit", "options": options})
    same = against_plain(subject, {"image": torch.zeros(1, 3, 16, 16)}, 0.0)
    assert same.flops == pytest.approx(1, abs=0.02)
    assert same.networks is None
    assert same.per_flop is None
    assert same.ratio.low <= same.ratio.median <= same.ratio.high


def sweep(cost: Callable[[int], float], monkeypatch: pytest.MonkeyPatch, **limits: Any) -> Any:
    """Measure on a clock that a step moves by `cost(size)`."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def run(size: int) -> None:
        clock[0] += cost(size)

    arguments = {"memory": lambda size: 100 * size, "free": None, "seconds": 1e9, **limits}
    return measure_batch_sizes(run, **arguments)


def test_the_batch_size_at_which_throughput_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    # A fixed cost a step, until the arithmetic is all that counts, and worse beyond.
    points, end = sweep(lambda size: max(8.0, size) * (1.0 if size <= 16 else 1.2), monkeypatch)
    assert end == "saturated"
    assert [point.batch_size for point in points] == [1, 2, 4, 8, 16, 32]
    assert recommend(points, end).batch_size == 8


def test_the_batch_size_that_fits_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    points, end = sweep(lambda size: 1.0, monkeypatch, free=1000)
    assert (end, points[-1]) == ("memory", BatchSize(8, 8.0, 800))
    chosen = recommend(points, end)
    assert chosen.batch_size == 8
    assert "80% of the free memory" in chosen.why
    assert len(sweep(lambda size: 1.0, monkeypatch, free=10)[0]) == 1  # one sample is always tried


def test_the_batch_size_that_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    points, end = sweep(lambda size: size**0.5, monkeypatch, seconds=20)
    assert end == "time"
    assert "larger ones may be faster" in recommend(points, end).why


def test_comparisons_use_what_fits_the_time() -> None:
    step = measure_subject(subject_of(), BRIEF, lambda text: None).step
    assert comparison_size(step, 1, Effort(1, 1e9, (1, 1), False)) == 4
    assert comparison_size(step, 2, Effort(1, 1e9, (1, 1), False)) == 2
    assert comparison_size(step, 1, Effort(1, 0.0, (1, 1), False)) == 1


def test_a_report() -> None:
    said: list[str] = []
    report = measure_subject(subject_of(training={"batch_size": 3, "accumulation": 2}), BRIEF, said.append)
    assert report.step.batch_size == 3
    assert report.step.seconds == pytest.approx(sum(report.step.parts.values()))
    assert report.step.images_per_second == pytest.approx(3 / report.step.seconds)
    assert report.step.utilisation == pytest.approx(
        report.step.flops / report.step.seconds / report.machine.matmul_rate["float32"]  # type: ignore[operator]
    )
    assert report.machine.memory == pytest.approx(available_memory(CPU), rel=0.5)
    assert [v.name for v in report.variants] == [way.name for way in ways(CPU, True)]
    assert report.variants[0].speed_up is not None
    assert "left out by --quick" in report.variants[2].note
    assert report.recommended.batch_size in [point.batch_size for point in report.batch_sizes]
    assert said[0] == "a step by part …"


def test_one_stage_is_plain_flow_matching() -> None:
    report = measure_subject(subject_of(decomposition="identity", stages=[16]), BRIEF, lambda text: None)
    assert report.plain is None
    assert report.left_out == ["one stage: this is plain flow matching"]


def test_two_models_that_do_not_fit_are_not_made() -> None:
    subject = subject_of()
    object.__setattr__(subject, "free_memory", 1000)
    report = measure_subject(subject, BRIEF, lambda text: None)
    assert report.plain is None
    assert "do not fit" in report.left_out[0]
    assert report.recommended.batch_size == 1


@pytest.mark.slow  # importing the compiler takes seconds
def test_a_compiler_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of()
    compiled = type(subject.step.module).compile
    monkeypatch.setattr(type(subject.step.module), "compile", lambda self: compiled(self, backend=broken_compiler))
    rows = measure_variants(subject, batch_of(2), 0.0, True, lambda text: None)
    assert rows[2].note.startswith("failed: backend='broken_compiler' raised")
    assert rows[2].images_per_second is None
    assert rows[0].images_per_second is not None
    assert subject.step.module._compiled_call_impl is None


def broken_compiler(graph: object, inputs: object) -> None:
    raise RuntimeError("no compiler here\nand a page of advice")


def test_memory_that_is_known() -> None:
    free = available_memory(CPU)
    assert free is not None
    assert free > (peak_memory(CPU) or 0) / 100


def test_batches_of_other_sizes_repeat() -> None:
    batch = batch_of(3)
    assert of_size(batch, 7)["label"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert of_size(batch, 2)["image"].shape == (2, 3, 16, 16)


def test_a_step_needs_no_labels() -> None:
    subject = subject_of()
    step = TrainingStep(subject.composition.objective(), subject.config.training, 0, CPU)
    before = {name: value.clone() for name, value in step.module.state_dict().items()}
    step({"image": batch_of(2)["image"]}, torch.bfloat16)
    assert any(not torch.equal(value, before[name]) for name, value in step.module.state_dict().items())
