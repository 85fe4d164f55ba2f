"""A toy module, objective and data set with everything that may break a trainer; shared by its tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfm_core.config.settings import LoggingSettings, TrainingSettings
from dfm_core.loss_report import LossReport
from dfm_core.randomness import BatchRandomness, derive_generator
from dfm_core.training.checkpoint import Checkpoint, load_newest
from dfm_core.training.execution import to_device
from dfm_core.training.metrics_log import read_metrics
from dfm_core.training.progress import Reporter, StepReport
from dfm_core.training.run_directory import RunDirectory
from dfm_core.training.trainer import Trainer

CPU = torch.device("cpu")


class Toy(nn.Module):
    """Convolution, running statistics, dropout: what a third party's network may hold."""

    def __init__(self, dropout: float = 0.2, norm: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv2d(6, 3, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(torch.tanh(self.norm(self.first(x.to(self.last.weight.dtype))))))


@dataclass
class ToyObjective:
    """Denoise; the first half of the channels of label 0 and of label 1 are its two parts."""

    module: nn.Module
    noise: float = 1.0
    break_at: Callable[[int], float] = lambda step: 0.0
    seen: list[tuple[int, int, int, int]] = field(default_factory=list)

    def __call__(self, batch: dict[str, Tensor], randomness: BatchRandomness) -> LossReport:
        self.seen.append((randomness.step, randomness.start, randomness.stop, randomness.total))
        image, label = batch["image"], batch["label"]
        draw = torch.randn(randomness.total, *image.shape[1:], generator=randomness.shared("noise"))
        draw = to_device({"noise": draw}, image.device)["noise"]
        error = (self.module(image + self.noise * randomness.part(draw)) - image).square().flatten(1).mean(1)
        error = torch.where(label == 1, error + self.break_at(randomness.step), error)
        parts = torch.stack([torch.stack([error[label == k].sum(), (label == k).sum()]) for k in (0, 1)], dim=1)
        late = torch.stack([image.flatten(1).mean(1) <= 0, image.flatten(1).mean(1) > 0])  # as good as any t
        kept = (label == torch.tensor([[0], [1]], device=label.device))[:, None] & late
        by_t = torch.stack([torch.where(kept, error.detach(), 0).sum(2), kept.sum(2)])
        return LossReport(error.mean(), parts.detach(), ("stage_1", "stage_2"), by_t)


@dataclass
class ToyData:
    batch_size: int = 8
    length: int | None = None
    closed: bool = False

    def batches(self, start_step: int) -> Iterator[dict[str, Tensor]]:
        try:
            step = start_step
            while self.length is None or step < self.length:
                generator = derive_generator(1, "data", step)
                image = torch.randn(self.batch_size, 3, 4, 4, generator=generator)
                yield {"image": image, "label": torch.arange(self.batch_size) % 2}
                step += 1
        finally:
            self.closed = True


class Recorder(Reporter):
    def __init__(self) -> None:
        self.reports: list[StepReport] = []
        self.warnings: list[str] = []
        self.steps: list[int] = []
        self.closed = False

    def advance(self, step: int) -> None:
        self.steps.append(step)

    def log(self, report: StepReport) -> None:
        self.reports.append(report)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def close(self) -> None:
        self.closed = True


FULL = {
    "max_steps": 10,
    "batch_size": 8,
    "learning_rate": 0.05,
    "warmup_steps": 3,
    "rate_schedule": "cosine",
    "clip_norm": 0.5,
    "ema_decay": 0.9,
}
QUIET = {"log_every": 4, "checkpoint_every": 0, "sample_every": 0, "validation_every": 0, "tensorboard": False}


def make(folder: Path, module: nn.Module | None = None, **changes: Any) -> Trainer:
    """A trainer of a new module, or of `module`; `changes` are settings of either section or Trainer arguments."""
    module = module or Toy()
    settings = {**FULL, **{key: changes.pop(key) for key in list(changes) if key in TrainingSettings.model_fields}}
    logging = {**QUIET, **{key: changes.pop(key) for key in list(changes) if key in LoggingSettings.model_fields}}
    folder.mkdir(parents=True, exist_ok=True)
    arguments: dict[str, Any] = {
        "module": module,
        "objective": ToyObjective(module),
        "data": ToyData(),
        "settings": TrainingSettings.model_validate(settings),
        "logging": LoggingSettings.model_validate(logging),
        "run": RunDirectory(folder),
        "device": CPU,
        "seed": 3,
        "snapshot": {"config": {"x": 1}, "statistics": {"rms": torch.tensor([0.5])}},
        "reporter": Recorder(),
        "parameter_groups": {"stage_1": ["first.weight", "first.bias"], "stage_2": ["last.weight", "last.bias"]},
    }
    return Trainer(**{**arguments, **changes})


def newest(folder: Path) -> Checkpoint:
    return load_newest(folder)[0]


def assert_equal_runs(first: Path, second: Path) -> None:
    one, two = newest(first), newest(second)
    assert one.step == two.step
    for name in ("weights", "ema", "optimizer"):
        left, right = one.tensors(name), two.tensors(name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    timed = ("images_per_second", "utilisation", "data_wait", "peak_memory", "seconds")
    return [{k: v for k, v in line.items() if k not in timed} for line in read_metrics(RunDirectory(folder))]


def interrupt_at(step: int) -> Callable[[dict[str, Tensor], BatchRandomness], None]:
    def check(_batch: dict[str, Tensor], randomness: BatchRandomness) -> None:
        if randomness.step == step - 1 and randomness.start == 0:
            os.kill(os.getpid(), signal.SIGINT)

    return check


def interrupted_trainer(folder: Path, step: int, **changes: Any) -> Trainer:
    trainer = make(folder, **changes)
    objective, check = trainer.objective, interrupt_at(step)

    def wrapped(batch: dict[str, Tensor], randomness: BatchRandomness) -> LossReport:
        check(batch, randomness)
        return objective(batch, randomness)

    return make(folder, trainer.module, **{**changes, "objective": wrapped})
