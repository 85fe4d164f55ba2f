"""Random weights and random batches for the laws of backbones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm_core.conformance.law import LawBroken, Measurement, at_least, at_most
from dfm_core.interfaces.backbone import Backbone, Conditioning
from dfm_core.randomness import derive_generator
from dfm_core.stages import Size, StageLayout, Stages, StageShape

NOTICEABLE = 1e-5
"""Smallest relative change of an output that counts as one; float32 rounding stays below."""


@dataclass(frozen=True)
class Example:
    """Arguments of one call of a backbone."""

    noisy_stages: Stages
    t: Tensor
    visible: Tensor
    label: Tensor | None

    def velocities(self, backbone: Backbone) -> Stages:
        """Call the backbone on this example, without gradients."""
        with torch.no_grad():
            return tuple(backbone(self.noisy_stages, self.t, self.visible, Conditioning(self.label)))


def prepared(backbone: Backbone, seed: int, purpose: str) -> tuple[Backbone, torch.Generator]:
    """Return a copy with random weights, and a CPU generator for the examples of one law."""
    generator = derive_generator(seed, "conformance", "backbone", purpose)
    return randomize(backbone, generator), generator


def num_stages(backbone: Backbone) -> int:
    """Number of stages that it was built for."""
    return len(backbone.facts.layout)


def randomize(backbone: Backbone, generator: torch.Generator) -> Backbone:
    """Return a copy in eval mode whose parameters are all drawn anew: networks that start at zero output say nothing.

    generator: on the CPU. Matrices and kernels get the variance 1 / fan-in, vectors are moved by 0.1 · normal.
    """
    changed = copy.deepcopy(backbone).eval()
    with torch.no_grad():
        for parameter in changed.parameters():
            draw = torch.randn(parameter.shape, generator=generator).to(parameter)
            if parameter.ndim < 2:
                parameter.add_(0.1 * draw)
            else:
                parameter.copy_(draw / (parameter.numel() / parameter.shape[0]) ** 0.5)
    return changed


def example_for(
    backbone: Backbone, visible: Tensor, generator: torch.Generator, layout: StageLayout | None = None
) -> Example:
    """Draw noisy stages, timesteps and labels for the sets of visible stages in `visible` (B, S) bool.

    generator: on the CPU. layout: of the stages, by default the backbone's own.
    """
    layout = layout or backbone.facts.layout
    batch = len(visible)
    device, dtype = placement(backbone)
    t = torch.where(visible, torch.rand(visible.shape, generator=generator), 0.0)
    classes = backbone.facts.num_classes
    label = torch.randint(classes + 1, (batch,), generator=generator).to(device) if classes else None
    return Example(
        tuple(torch.randn(batch, *stage.shape, generator=generator).to(device, dtype) for stage in layout),
        t.to(device),
        visible.to(device),
        label,
    )


def prefixes(num_stages: int) -> Tensor:
    """Return the (S, S) bool masks that make the first 1, 2, … S stages visible."""
    return torch.ones(num_stages, num_stages, dtype=torch.bool).tril()


def placement(backbone: Backbone) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the parameters."""
    for parameter in backbone.parameters():
        return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


def other_layouts(layout: StageLayout) -> list[StageLayout]:
    """Twice the height and width, twice the width alone; of clips also twice the frames, and one frame.

    Of frame counts that are no multiples of each other (causal grids) the first frame stays, the others are doubled.
    """
    others = [
        _resized(layout, lambda *size: (*size[:-2], 2 * size[-2], 2 * size[-1])),
        _resized(layout, lambda *size: (*size[:-1], 2 * size[-1])),
    ]
    frames = [stage.resolution[0] for stage in layout if len(stage.resolution) == 3]
    if not frames:
        return others
    kept = int(any(count % frames[0] for count in frames))
    longer = _resized(layout, lambda count, *rest: (2 * count - kept, *rest))
    return [*others, longer, _resized(layout, lambda _, *rest: (1, *rest))]


def _resized(layout: StageLayout, resize: Callable[..., Size]) -> StageLayout:
    """The layout with `resize(*size)` in place of every size."""
    return StageLayout(tuple(StageShape(resize(*s.resolution), (s.shape[0], *resize(*s.shape[1:]))) for s in layout))


def visible_only(velocities: Sequence[Tensor], visible: Tensor) -> Stages:
    """Velocities (B, …) of the samples at which each stage is visible."""
    return tuple(velocity[visible[:, index]] for index, velocity in enumerate(velocities))


def weighted_sum(backbone: Backbone, example: Example, generator: torch.Generator) -> Tensor:
    """A random weighting of all velocities at visible stages, float32, with gradients."""
    velocities = backbone(example.noisy_stages, example.t, example.visible, Conditioning(example.label))
    weights = [torch.randn(velocity.shape, generator=generator).to(velocity.device) for velocity in velocities]
    terms = visible_only([v.float() * weight for v, weight in zip(velocities, weights, strict=True)], example.visible)
    return torch.stack([term.sum() for term in terms]).sum()


def relative_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Largest difference over all stages, relative to the largest value; infinite if anything is not finite."""
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.numel()]
    if not all(bool(torch.isfinite(tensor).all()) for pair in pairs for tensor in pair):
        return float("inf")
    size = max(float(a.abs().max()) for a, _ in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / max(size, 1e-30)


def check_shapes(stages: Sequence[Tensor], velocities: Sequence[Tensor]) -> None:
    """Raise LawBroken unless the velocities have the shapes of the stages."""
    want, got = [tuple(stage.shape) for stage in stages], [tuple(velocity.shape) for velocity in velocities]
    if want != got:
        raise LawBroken(f"expected velocities of the stages' shapes {want}, got {got}")


def small_change(value: float, bound: float, otherwise: str) -> Measurement:
    """Return a relative change; raise LawBroken where it is above the bound."""
    return at_most(value, bound, f"{otherwise} (relative change {value:.2g}, at most {bound:.0e})")


def large_change(value: float, otherwise: str) -> Measurement:
    """Return a relative change; raise LawBroken where it is not noticeable."""
    return at_least(
        value, NOTICEABLE, f"{otherwise} (relative change {value:.2g}, more than {NOTICEABLE:.0e} expected)"
    )
