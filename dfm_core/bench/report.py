"""What a benchmark finds, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from dfm_core.bench.pairs import Ratio


@dataclass(frozen=True)
class Machine:
    """Where it ran. matmul_rate: FLOPs per second of a large product, by type. memory: bytes free; None: not known."""

    device: str
    threads: int
    torch: str
    matmul_rate: dict[str, float]
    memory: int | None


@dataclass(frozen=True)
class StepTimes:
    """A step of training as configured: mean seconds of its parts.

    flops: of forward and backward. utilisation: their share of what matrix products reach; None: cannot be counted.
    memory: bytes, estimated.
    """

    batch_size: int
    precision: str
    parts: dict[str, float]
    seconds: float
    images_per_second: float
    flops: int | None
    utilisation: float | None
    memory: int


@dataclass(frozen=True)
class AgainstPlain:
    """Step time over that of plain flow matching, and of plain flow matching over itself.

    flops: ratio of FLOPs, None if they cannot be counted. networks: what the two say of themselves, where it differs.
    per_flop: ratio of the times for one FLOP, where the networks differ and FLOPs can be counted: `ratio` is then one
    of different amounts of work.
    """

    ratio: Ratio
    itself: Ratio
    flops: float | None
    networks: str | None
    per_flop: Ratio | None = None


@dataclass(frozen=True)
class Variant:
    """A way to run the same step.

    flags: of `dfm train`. speed_up: over eager float32. note: why it was not measured, or how long the first step took
    to compile.
    """

    name: str
    flags: str
    images_per_second: float | None
    utilisation: float | None
    speed_up: Ratio | None
    note: str


@dataclass(frozen=True)
class BatchSize:
    """Throughput at one batch size; memory: bytes, estimated by the plan."""

    batch_size: int
    images_per_second: float
    memory: int


@dataclass(frozen=True)
class Recommendation:
    """A batch size, and why."""

    batch_size: int
    why: str


@dataclass(frozen=True)
class BenchReport:
    """All of it. comparison_size: batch of `plain` and `variants`. plain: None where left_out says why."""

    machine: Machine
    step: StepTimes
    comparison_size: int
    plain: AgainstPlain | None
    variants: list[Variant]
    fastest: Variant
    batch_sizes: list[BatchSize]
    recommended: Recommendation
    left_out: list[str]
