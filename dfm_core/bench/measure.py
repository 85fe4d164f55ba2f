"""`measure`: a configuration on this machine: its step by part, against plain flow matching, and how to run it best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dfm_core.bench.batch_sizes import USABLE, measure_batch_sizes, recommend
from dfm_core.bench.pairs import interleaved, ratio_of_times
from dfm_core.bench.plain import plain_objective
from dfm_core.bench.report import AgainstPlain, BenchReport, Machine, StepTimes, Variant
from dfm_core.bench.step import Stopwatch, of_size
from dfm_core.bench.subject import Subject, make_subject
from dfm_core.bench.variants import fastest, measure_variants, ways
from dfm_core.network_facts import training_flops
from dfm_core.training.data import BatchStream
from dfm_core.training.execution import isolated_random_state, to_device
from dfm_core.training.utilisation import matmul_rate

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.plugins.registry import Registry

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Effort:
    """How long each section measures, about. step_seconds: longest step of the comparisons, which use a smaller batch.

    steps: fewest and most that are measured by part.
    """

    seconds: float
    step_seconds: float
    steps: tuple[int, int]
    compiles: bool


QUICK = Effort(seconds=8, step_seconds=0.3, steps=(2, 10), compiles=False)
THOROUGH = Effort(seconds=40, step_seconds=2, steps=(5, 50), compiles=True)


def measure(config: RunConfig, registry: Registry, effort: Effort, say: Callable[[str], None]) -> BenchReport:
    """Train a model for some steps, throw it away, and report. say: told what is measured now.

    Writes nothing (the caches of data sets apart). Errors are those of a training.
    """
    subject = make_subject(config, registry)
    with isolated_random_state(subject.device):
        return measure_subject(subject, effort, say)


def measure_subject(subject: Subject, effort: Effort, say: Callable[[str], None]) -> BenchReport:
    """Measure one section after the other."""
    say("a step by part …")
    step, batch = step_by_part(subject, effort)
    say("batch sizes …")
    sizes, end = measure_batch_sizes(
        lambda size: subject.step(of_size(batch, size), subject.dtype),
        lambda size: subject.plan(size).memory_bytes,
        subject.free_memory,
        1.5 * effort.seconds,
    )
    small = of_size(batch, comparison_size(step, subject.config.training.accumulation, effort))
    left_out = [reason] if (reason := without_plain(subject, small)) else []
    plain = None
    if not left_out:
        say("plain flow matching …")
        plain = against_plain(subject, small, effort.seconds)
    variants = measure_variants(subject, small, effort.seconds, effort.compiles, say)
    return BenchReport(
        machine=describe_machine(subject, variants),
        step=step,
        comparison_size=len(next(iter(small.values()))),
        plain=plain,
        variants=variants,
        fastest=fastest(variants),
        batch_sizes=sizes,
        recommended=recommend(sizes, end),
        left_out=left_out,
    )


def step_by_part(subject: Subject, effort: Effort) -> tuple[StepTimes, Batch]:
    """Mean times of a few steps as configured, after one that is not counted; and a batch on the device."""
    training, count = subject.config.training, 0
    matmul_rate(subject.device, subject.dtype or torch.float32)  # measured just before
    with arriving(subject) as batches:
        subject.step(next(batches), subject.dtype, training.accumulation)
        watch = Stopwatch(subject.device)
        deadline = time.perf_counter() + effort.seconds
        while count < effort.steps[0] or (count < effort.steps[1] and time.perf_counter() < deadline):
            batch = next(batches)
            watch.lap("data")
            subject.step(batch, subject.dtype, training.accumulation, watch.lap)
            count += 1
    parts = {name: seconds / count for name, seconds in watch.seconds.items()}
    speed = training.batch_size / sum(parts.values())
    times = StepTimes(
        batch_size=training.batch_size,
        precision=str(subject.dtype or torch.float32).removeprefix("torch."),
        parts=parts,
        seconds=sum(parts.values()),
        images_per_second=speed,
        flops=subject.sample_flops and subject.sample_flops * training.batch_size,
        utilisation=subject.utilisation(speed, subject.dtype),
        memory=subject.plan(training.batch_size, training.accumulation).memory_bytes,
    )
    return times, to_device(batch, subject.device)


@contextmanager
def arriving(subject: Subject) -> Iterator[Iterator[dict[str, Tensor]]]:
    """Batches as a training gets them; afterwards no process that loads data remains."""
    config = subject.config
    pinned = subject.device.type == "cuda"
    stream = BatchStream(
        subject.dataset, config.training.batch_size, config.seed, workers=config.workers, pin_memory=pinned
    )
    batches = stream.batches()
    try:
        yield batches
    finally:
        batches.close()  # type: ignore[attr-defined]  # a generator


def comparison_size(step: StepTimes, accumulation: int, effort: Effort) -> int:
    """Largest power of two, up to the micro-batch, whose step is not too long to be repeated often."""
    micro_batch = -(-step.batch_size // accumulation)
    in_time = int(effort.step_seconds * step.images_per_second)
    return 2 ** (max(1, min(micro_batch, in_time)).bit_length() - 1)


def without_plain(subject: Subject, batch: Batch) -> str | None:
    """Why a second model beside the first is not made; None if it is."""
    if subject.composition.num_stages == 1:
        return "one stage: this is plain flow matching"
    need = 2 * subject.plan(len(next(iter(batch.values())))).memory_bytes
    if subject.free_memory is not None and need > USABLE * subject.free_memory:
        return "plain flow matching: two models at once do not fit into the free memory"
    return None


def against_plain(subject: Subject, batch: Batch, seconds: float) -> AgainstPlain:
    """Time steps of the model and of plain flow matching, twice, in turn."""
    objective = plain_objective(subject.assembler, subject.composition)
    plain = subject.new_step(objective)
    calls = {
        "stages": lambda: subject.step(batch, subject.dtype),
        "plain": lambda: plain(batch, subject.dtype),
        "plain again": lambda: plain(batch, subject.dtype),
    }
    for call in calls.values():
        call()
    times = interleaved(calls, seconds)
    backbones = (subject.composition.model.backbone, objective.model.backbone)
    own, others = (describe(backbone.describe()) for backbone in backbones)
    flops = None
    if subject.sample_flops:
        layout = backbones[1].facts.layout
        flops = subject.sample_flops / training_flops(backbones[1], layout, 1, bool(subject.data.classes))
    ratio, differ = ratio_of_times(times["stages"], times["plain"]), flops is None or abs(flops - 1) > SAME_WORK
    return AgainstPlain(
        ratio,
        ratio_of_times(times["plain again"], times["plain"]),
        flops,
        f"{own} against {others}" if differ else None,
        ratio / flops if differ and flops else None,
    )


SAME_WORK = 0.02
"""How far the FLOPs of two networks may differ that do the same; beyond, their times say nothing of the stages."""


def describe(facts: Mapping[str, str]) -> str:
    """What a backbone says of itself, on one line."""
    return ", ".join(f"{key} {value}" for key, value in facts.items()) or "a network"


def describe_machine(subject: Subject, variants: Sequence[Variant]) -> Machine:
    """Where this runs, and how fast its products are in the types that were used."""
    names = {variant.name for variant in variants if variant.images_per_second}
    rates = {
        way.precision: matmul_rate(subject.device, way.dtype or torch.float32)
        for way in ways(subject.device, compiles=True)
        if way.name in names
    }
    return Machine(str(subject.device), torch.get_num_threads(), torch.__version__, rates, subject.free_memory)
