"""The situations in which a component is judged: facts such as core computes, small, and inputs to go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfm_core.interfaces.autoencoder import AutoencoderFacts
from dfm_core.interfaces.backbone import BackboneFacts
from dfm_core.interfaces.dataset import DatasetFacts, Split
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.interfaces.metric import MetricFacts
from dfm_core.interfaces.path import PathFacts
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageScheduleFacts
from dfm_core.interfaces.timestep_sampler import TimestepSamplerFacts
from dfm_core.plugins.specs import ComponentSpec
from dfm_core.randomness import derive_generator
from dfm_core.stages import Size, StageLayout, StageShape, format_size

# Stage sizes and channels: one to four stages, square and not, ratios 2, 4, 3 and 4/3.
_STAGES: tuple[tuple[tuple[Size, ...], int], ...] = (
    (((16, 16),), 3),
    (((16, 24),), 1),
    (((8, 12), (16, 24)), 1),
    (((8, 8), (32, 32)), 3),
    (((8, 8), (16, 16), (32, 32)), 4),
    (((8, 12), (24, 36), (32, 48)), 3),
    (((4, 6), (8, 12), (16, 24), (32, 48)), 3),
)
# Clips: each frame on its own, one and several stages; time and space together, in steps and apart; causal time grids.
_CLIP_STAGES: tuple[tuple[tuple[Size, ...], int], ...] = (
    (((3, 8, 8),), 3),
    (((3, 8, 12), (3, 16, 24)), 1),
    (((5, 4, 4), (5, 8, 8), (5, 32, 32)), 4),
    (((4, 8, 8), (8, 16, 16)), 3),
    (((2, 4, 6), (8, 16, 24)), 1),
    (((4, 6, 8), (4, 12, 16), (8, 24, 32)), 1),
    (((4, 8, 8), (8, 8, 8)), 4),
    (((3, 8, 8), (5, 16, 16)), 3),
    (((2, 4, 6), (3, 8, 12), (5, 16, 24)), 1),
)
# Root mean squares as of stages in pixels, and as of standardised ones.
_SIGMAS = ((0.8, 0.3, 0.11, 0.02), (1.0, 1.0, 1.0, 1.0))
_SPLITS: tuple[Split, ...] = ("train", "validation")
_STEPS_A_STAGE = 10
_THRESHOLD = 0.9


@dataclass(frozen=True)
class Case:
    """One situation. name: for messages. facts: what the component is built with. inputs: a law's other arguments.

    several_stages: whether it has more than one stage. clips: whether it is about video; see `concerns`.
    """

    name: str
    facts: Any
    inputs: tuple[Tensor, ...] = ()
    several_stages: bool = False
    clips: bool = False

    def concerns(self, spec: ComponentSpec) -> bool:
        """Whether a component with this spec is judged in it: on clips if it declares "video", on images if others."""
        media = getattr(spec, "media", None)
        if media is None:
            return not self.clips
        return "video" in media if self.clips else media != {"video"}


def cases_of(kind: str) -> tuple[Case, ...]:
    """Return the cases of a kind, the plainest first."""
    return tuple(_CASES[kind]())


def plain_grid(num_stages: int, progressive: bool = True) -> ScheduleGrid:
    """A schedule of ten linear steps a stage, one stage after the other (up to t = 0.9), or all stages together."""
    steps = _STEPS_A_STAGE * (num_stages if progressive else 1)
    index = torch.arange(steps + 1, dtype=torch.float64)
    if not progressive:
        return ScheduleGrid(
            (index / steps)[:, None].repeat(1, num_stages), torch.ones(steps, num_stages, dtype=torch.bool)
        )
    starts = _STEPS_A_STAGE * torch.arange(num_stages)
    stops = starts + _STEPS_A_STAGE
    reached = torch.tensor([_THRESHOLD] * (num_stages - 1) + [1.0], dtype=torch.float64)
    rising = reached * (index[:, None] - starts) / _STEPS_A_STAGE
    creeping = reached + (1 - reached) * (index[:, None] - stops) / (steps - stops).clamp(min=1)
    t = torch.where(index[:, None] <= stops, rising.clamp(min=0), creeping)
    t[-1] = 1.0  # exactly, whatever was rounded
    return ScheduleGrid(t, index[:-1, None] >= starts)


def _decomposition_cases() -> list[Case]:
    return [
        Case(
            f"stages {_sizes(sizes)}, {_count(channels, 'channel')}, {str(dtype).removeprefix('torch.')}",
            DecompositionFacts(sizes, channels),
            (_images(sizes[-1], channels, dtype),),
            len(sizes) > 1,
            clips=len(sizes[-1]) == 3,
        )
        for sizes, channels in (*_STAGES, *_CLIP_STAGES)
        for dtype in (torch.float32, torch.float64)
    ]


def _schedule_cases() -> list[Case]:
    return [
        Case(f"{_count(number, 'stage')}, σ {sigmas[:number]}", StageScheduleFacts(number, sigmas[:number]))
        for number in range(1, 5)
        for sigmas in _SIGMAS
    ]


def _sampler_cases() -> list[Case]:
    grids = [(number, True) for number in range(1, 5)] + [(2, False)]
    return [
        Case(
            f"{_count(number, 'stage')}, {'a progressive' if progressive else 'a simultaneous'} schedule",
            TimestepSamplerFacts(number, plain_grid(number, progressive)),
        )
        for number, progressive in grids
    ]


def _path_cases() -> list[Case]:
    # Each stage twice the size of the one before: most paths take these, and some nothing else. Paths do not declare
    # whether they take clips: every path is tried on them, and may refuse.
    images, clips = _smooth_images(), _smooth_clips()
    situations: dict[str, tuple[tuple[tuple[int, ...], ...], Tensor]] = {
        "1 stage": (((1, 16, 16),), images),
        "2 stages": (((1, 8, 8), (1, 16, 16)), images),
        "3 stages": (((1, 4, 4), (1, 8, 8), (1, 16, 16)), images),
        "clips, 2 stages": (((1, 4, 8, 8), (1, 4, 16, 16)), clips),
        "clips, 2 stages, also in time": (((1, 2, 8, 8), (1, 4, 16, 16)), clips),
    }
    return [
        Case(
            f"{name}, {'whole pictures' if whole else 'residuals'}",
            PathFacts(_layout(*shapes), (1.0,) * len(shapes), whole),
            (inputs,),
            len(shapes) > 1,
        )
        for name, (shapes, inputs) in situations.items()
        for whole in (True, False)
    ]


def _backbone_cases() -> list[Case]:
    # One level of a two-dimensional transform: nine bands of 8×8 are the details of a 16×16 preview.
    coefficients = (StageShape((8, 8), (3, 8, 8)), StageShape((16, 16), (9, 8, 8)))
    images = {
        "1 stage": (_layout((3, 8, 8)), 3),
        "2 stages": (_layout((3, 8, 8), (3, 16, 16)), 3),
        "2 stages of 3 and 9 channels": (StageLayout(coefficients), 1),
        "2 stages, not square, no classes": (_layout((4, 8, 12), (4, 16, 24)), 0),
        "3 stages, not square": (_layout((1, 8, 4), (1, 16, 8), (1, 32, 16)), 2),
    }
    coefficients = (StageShape((2, 8, 8), (3, 2, 8, 8)), StageShape((2, 16, 16), (9, 2, 8, 8)))
    clips = {
        "clips, 1 stage": (_layout((3, 4, 8, 8)), 3),
        "clips, 2 stages": (_layout((3, 4, 8, 8), (3, 4, 16, 16)), 3),
        "clips, 2 stages of 3 and 9 channels": (StageLayout(coefficients), 1),
        "clips, 2 stages, also in time, not square, no classes": (_layout((4, 2, 4, 6), (4, 4, 8, 12)), 0),
        "clips, 3 stages, also in time, the first frame on its own": (
            _layout((1, 2, 8, 4), (1, 3, 16, 8), (1, 5, 32, 16)),
            2,
        ),
    }
    return [
        Case(name, BackboneFacts(layout, classes), clips=layouts is clips)
        for layouts in (images, clips)
        for name, (layout, classes) in layouts.items()
    ]


def _autoencoder_cases() -> list[Case]:
    return [
        Case(f"{'clips of ' * clips}{_count(channels, 'channel')}", AutoencoderFacts(channels, clips), clips=clips)
        for clips in (False, True)
        for channels in (3, 1)
    ]


def _metric_cases() -> list[Case]:
    classes = ("first", "second")
    return [
        Case("32x32, 2 classes", MetricFacts((32, 32), 3, classes)),
        Case("18x24, no classes", MetricFacts((18, 24), 3)),
        Case("clips 4x16x16, 2 classes", MetricFacts((4, 16, 16), 3, classes), clips=True),
        Case("clips 9x18x24, no classes", MetricFacts((9, 18, 24), 3), clips=True),
    ]


def _dataset_cases() -> list[Case]:
    return [
        Case(f"{format_size(size)}, {split}", DatasetFacts(size, split, 0), clips=len(size) == 3)
        for split in _SPLITS
        for size in ((32, 32), (24, 40), (4, 32, 32), (5, 24, 40))
    ]


_CASES: dict[str, Callable[[], Sequence[Case]]] = {
    "dataset": _dataset_cases,
    "autoencoder": _autoencoder_cases,
    "decomposition": _decomposition_cases,
    "path": _path_cases,
    "stage_schedule": _schedule_cases,
    "timestep_sampler": _sampler_cases,
    "backbone": _backbone_cases,
    "metric": _metric_cases,
}


def _images(size: Size, channels: int, dtype: torch.dtype) -> Tensor:
    noise = torch.rand(2, channels, *size, generator=derive_generator(0, "conformance", "images"), dtype=torch.float64)
    return (2 * noise - 1).to(dtype)


def _smooth_images() -> Tensor:
    """(1024, 1, 16, 16) float64: noise of every size, so that each downsampled picture has something of its own."""
    generator = derive_generator(0, "conformance", "paths")
    sizes = (2, 4, 8, 16)
    parts = (torch.randn(1024, 1, size, size, generator=generator, dtype=torch.float64) for size in sizes)
    return 0.4 * torch.stack(
        [part.repeat_interleave(16 // n, 2).repeat_interleave(16 // n, 3) for n, part in zip(sizes, parts, strict=True)]
    ).sum(0)


def _smooth_clips() -> Tensor:
    """(256, 1, 4, 16, 16) float64: the same, four images a clip."""
    return _smooth_images().reshape(256, 4, 1, 16, 16).transpose(1, 2).contiguous()


def _layout(*shapes: tuple[int, ...]) -> StageLayout:
    return StageLayout(tuple(StageShape(shape[1:], shape) for shape in shapes))


def _sizes(sizes: Sequence[Size]) -> str:
    return ",".join(map(format_size, sizes))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
