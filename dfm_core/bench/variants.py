"""The same step eagerly, compiled and in bfloat16, where the machine can."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfm_core.bench.machine import compiled_code_cleared, without_bfloat16
from dfm_core.bench.pairs import interleaved, ratio_of_times
from dfm_core.bench.report import Variant
from dfm_core.bench.subject import Subject
from dfm_core.training.execution import eager_if


@dataclass(frozen=True)
class Way:
    """A way to run a step. left_out: why it is not tried."""

    dtype: torch.dtype | None
    compiled: bool
    left_out: str | None

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{'compiled' if self.compiled else 'eager'} {self.precision}"

    @property
    def flags(self) -> str:
        """Flags of `dfm train` that ask for it."""
        return f"--{'' if self.compiled else 'no-'}compile --set training.precision={self.precision}"

    @property
    def precision(self) -> str:
        """Name of the type of most arithmetic."""
        return "float32" if self.dtype is None else "bfloat16"


def ways(device: torch.device, compiles: bool) -> list[Way]:
    """All of them, the plainest first."""
    no_bfloat16 = without_bfloat16(device)
    no_compiler = None if compiles else "left out by --quick: it takes minutes"
    return [
        Way(dtype, compiled, (no_compiler if compiled else None) or (no_bfloat16 if dtype else None))
        for compiled in (False, True)
        for dtype in (None, torch.bfloat16)
    ]


def measure_variants(
    subject: Subject, batch: Mapping[str, Tensor], seconds: float, compiles: bool, say: Callable[[str], None]
) -> list[Variant]:
    """Time the ways side by side, in turn, for about `seconds` after all of them have run once.

    One that is left out or fails has the reason in its note; the first, eager float32, must run.
    """
    tried = ways(subject.device, compiles)
    notes = {way.name: way.left_out or "" for way in tried}
    calls: dict[str, Callable[[], None]] = {}
    with compilable(subject.step.module, any(way.compiled and not way.left_out for way in tried)):
        for way in tried:
            if way.left_out:
                continue
            say(f"{way.name} …")
            run = functools.partial(run_way, subject, batch, way)
            try:
                notes[way.name] = first_call(run, way)
            except Exception as error:
                if not calls:
                    raise
                notes[way.name] = "failed: " + first_line(error)
                continue
            calls[way.name] = run
        times = interleaved(calls, seconds)
    baseline, size = times[tried[0].name], len(next(iter(batch.values())))
    return [described(subject, way, size, times.get(way.name), baseline, notes[way.name]) for way in tried]


def run_way(subject: Subject, batch: Mapping[str, Tensor], way: Way) -> None:
    """Make one step in this way; the module is compiled, which an eager step must not use."""
    with eager_if(not way.compiled):
        subject.step(batch, way.dtype)


def first_call(run: Callable[[], None], way: Way) -> str:
    """Run once; for a compiled step, say how long it took."""
    start = time.perf_counter()
    run()
    return f"first step {time.perf_counter() - start:.0f} s" if way.compiled else ""


def described(
    subject: Subject, way: Way, size: int, times: list[float] | None, baseline: list[float], note: str
) -> Variant:
    """The row of one way. times: None where it was not measured."""
    if times is None:
        return Variant(way.name, way.flags, None, None, None, note)
    speed = size / statistics.median(times)
    utilisation = subject.utilisation(speed, way.dtype)
    return Variant(way.name, way.flags, speed, utilisation, ratio_of_times(baseline, times), note)


def fastest(variants: Sequence[Variant]) -> Variant:
    """The fastest one whose interval lies above 1, else of the first."""
    faster = [v for v in variants if v.speed_up is not None and v.speed_up.low > 1]
    return max(faster, key=lambda v: v.speed_up.median if v.speed_up else 0.0, default=variants[0])


def first_line(error: Exception) -> str:
    """What an error of torch's compiler says, without its pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def compilable(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, a call of `module` is compiled unless that is forbidden; what the compiler wrote is gone afterwards."""
    if not wanted:
        yield
        return
    with compiled_code_cleared():
        module.compile()
        try:
            yield
        finally:
            module._compiled_call_impl = None
