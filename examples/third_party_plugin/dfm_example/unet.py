"""A small U-Net: every stage enters, and leaves, at its own resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from dfm_core.errors import CompositionError, StageShapeError
from dfm_core.flow import expand_to
from dfm_core.interfaces.backbone import Backbone, BackboneFacts, Conditioning
from dfm_core.stages import Stages
from torch import Tensor, nn

from dfm_example.plugin import UNetOptions

FREQUENCIES = 32
GROUPS = 8


class UNet(Backbone):
    """Convolutions at the resolutions of the stages. Ronneberger et al. 2015; blocks after Dhariwal and Nichol 2021.

    A level is one tensor size. On the way down its stages are added to what comes from the finer level; on the way up
    their velocities are read off. Several stages may share a level: coefficients of a transform are smaller than the
    picture that they belong to. Below the coarsest stage the network goes on halving, so that it sees the whole image.
    No weight depends on a size: other sizes in the same ratios work.
    """

    options: UNetOptions

    def __init__(self, options: UNetOptions, facts: BackboneFacts) -> None:
        super().__init__(options, facts)
        shapes = [stage.shape for stage in facts.layout]
        if any(len(shape) != 3 for shape in shapes):
            raise CompositionError(f"example/unet takes images, stages of shape (C, H, W); got {shapes}")
        sizes = sorted({shape[1:] for shape in shapes}, key=math.prod, reverse=True)
        self.level_of = [sizes.index(shape[1:]) for shape in shapes]
        halvings = max(0, math.ceil(math.log2(min(sizes[-1]) / options.smallest)))
        # A velocity holds the noise, which nothing compresses: more features than the stages have channels.
        least = 2 * max(shape[0] for shape in shapes)
        width = max(options.width, -(-least // GROUPS) * GROUPS)
        # Features inside a level, and towards the finer one.
        inner = [width * min(2**level, 4) for level in range(len(sizes) + halvings)]
        outer = [inner[0], *inner[:-1]]
        ways = [(shape[0], outer[level]) for shape, level in zip(shapes, self.level_of, strict=True)]
        self.inputs = nn.ModuleList(nn.Conv2d(channels, features, 3, padding=1) for channels, features in ways)
        self.heads = nn.ModuleList(nn.Conv2d(features, channels, 3, padding=1) for channels, features in ways)
        self.clocks = nn.ModuleList(Clock(4 * width) for _ in shapes)
        # One row more than there are classes: no label.
        self.label = nn.Embedding(facts.num_classes + 1, 4 * width) if facts.num_classes else None
        self.down = nn.ModuleList(Block(a, b, 4 * width) for a, b in zip(outer, inner, strict=True))
        self.middle = Block(inner[-1], inner[-1], 4 * width)
        self.up = nn.ModuleList(Block(2 * a, b, 4 * width) for a, b in zip(inner, outer, strict=True))
        for last in [*self.heads, *(module.second for module in self.modules() if isinstance(module, Block))]:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        """Return the velocities in the shapes and dtype of `noisy_stages`; zero at initialisation.

        Raises StageShapeError where stages that share a level have different sizes.
        """
        sizes = self._sizes(noisy_stages)
        condition = F.silu(self._condition(t, visible, conditioning))
        entering = [
            # Selected before the convolution, so that no NaN gets in, and after it, because of its bias.
            _where(visible[:, index], layer(_where(visible[:, index], stage))).to(stage.dtype)
            for index, (layer, stage) in enumerate(zip(self.inputs, noisy_stages, strict=True))
        ]
        features, skipped = entering[0].new_zeros(()), []
        for level, block in enumerate(self.down):
            features = F.adaptive_avg_pool2d(features, sizes[level]) if level else features
            features = sum((entering[index] for index in self._members(level)), features)
            features = block(features, condition)
            skipped.append(features)
        features = self.middle(features, condition)
        velocities = [*noisy_stages]
        for level in reversed(range(len(sizes))):
            features = F.interpolate(features, sizes[level])
            features = self.up[level](torch.cat([features, skipped[level]], 1), condition)
            for index in self._members(level):
                velocities[index] = self.heads[index](_normalized(features)).to(noisy_stages[index].dtype)
        return tuple(velocities)

    def _members(self, level: int) -> list[int]:
        """Indices of the stages of a level; none below the coarsest stage."""
        return [stage_index for stage_index, own in enumerate(self.level_of) if own == level]

    def _sizes(self, stages: Sequence[Tensor]) -> list[tuple[int, int]]:
        """Size of each level for these stages, finest first; below the coarsest stage half of the one before."""
        sizes: list[tuple[int, int]] = []
        for level in range(len(self.down)):
            own = {(stages[index].shape[-2], stages[index].shape[-1]) for index in self._members(level)}
            if len(own) > 1:
                raise StageShapeError(f"stages of one size in training have sizes {sorted(own)}; keep their ratios")
            sizes.append(own.pop() if own else (-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        return sizes

    def _condition(self, t: Tensor, visible: Tensor, conditioning: Conditioning) -> Tensor:
        """Add up the embeddings of t over the visible stages (their biases say which these are) and of the label."""
        clocks = zip(self.clocks, t.T, visible.T, strict=True)
        condition = torch.stack([_where(shown, clock(_where(shown, time))) for clock, time, shown in clocks]).sum(0)
        if self.label is None:
            return condition
        null = torch.full_like(t[:, 0], self.facts.null_label, dtype=torch.int64)
        return condition + self.label(null if conditioning.label is None else conditioning.label)


class Clock(nn.Module):
    """Embed the timestep of one stage: sines and cosines of 1 to 1000 radians through two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * FREQUENCIES, width)
        self.second = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """t: (B,) in [0, 1] -> (B, width)."""
        angles = t[:, None] * torch.logspace(0, 3, FREQUENCIES, device=t.device)
        waves = torch.cat([angles.sin(), angles.cos()], 1).to(self.first.weight.dtype)
        return self.second(F.silu(self.first(waves)))


class Block(nn.Module):
    """Two convolutions beside a shortcut; the condition (B, width) scales and shifts what lies between them."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (B, inputs, H, W) -> (B, outputs, H, W), in the dtype of x."""
        scale, shift = self.modulation(condition)[..., None, None].chunk(2, dim=1)
        between = F.group_norm(self.first(_normalized(x)), GROUPS)
        return (self.shortcut(x) + self.second(F.silu(between * (1 + scale) + shift))).to(x.dtype)


def _normalized(x: Tensor) -> Tensor:
    """Normalise within each sample and group of channels, then SiLU."""
    return F.silu(F.group_norm(x, GROUPS))


def _where(shown: Tensor, x: Tensor) -> Tensor:
    """x (B, ...) where shown (B,), else 0."""
    return torch.where(expand_to(shown, x), x, 0)
