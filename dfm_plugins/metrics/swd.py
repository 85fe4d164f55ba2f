"""Sliced Wasserstein distance between patches at every level of a Laplacian pyramid (Karras et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import Features, ImageBatch, Metric, MetricFacts, Values
from dfm_core.randomness import derive_generator
from dfm_core.stages import Size, format_size
from dfm_plugins.metrics.frames import as_frames, noun_of
from dfm_plugins.metrics.specs import SwdOptions

PATCH = 7
COARSEST = 16
"""Short side at which the pyramid ends."""
_DIRECTIONS_AT_ONCE = 64
_SCALE = 1e3


class SlicedWassersteinDistance(Metric):
    """128 patches of 7×7 an image and level, 512 directions, × 1000; images of less than 32 pixels have one level.

    Of a clip, each patch is one of any of its frames.
    """

    options: SwdOptions

    def __init__(self, options: SwdOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts)
        if min(facts.size[-2:]) < PATCH:
            raise UsageError(
                f"metric swd: expected {noun_of(facts)} of at least {PATCH}×{PATCH}, got {format_size(facts.size)}"
            )
        self.most_images = options.images

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """Side and number of the patches, directions, levels of the pyramid, and the seed of what is random."""
        options = self.options
        return {
            "patch": PATCH,
            "patches": options.patches,
            "directions": options.directions,
            "levels": len(self.levels),
            "seed": options.seed,
        }

    @property
    def levels(self) -> list[Size]:
        """Sizes of the pyramid's levels, fine to coarse: halved while the short side stays at least 16."""
        sizes = [self.facts.size[-2:]]
        while min(sizes[-1]) // 2 >= COARSEST:
            sizes.append(tuple((length + 1) // 2 for length in sizes[-1]))
        return sizes

    def features(self, batch: ImageBatch) -> Features:
        """Patches at random places: "HxW" -> (B, patches, 49·C)."""
        pyramid = laplacian_pyramid(as_frames(batch.images), len(self.levels))
        return {
            format_size(size): torch.stack(
                [
                    self._patches(frames, index, level)
                    for frames, index in zip(levels.chunk(len(batch.indices)), batch.indices, strict=True)
                ]
            ).cpu()
            for level, (size, levels) in enumerate(zip(self.levels, pyramid, strict=True))
        }

    def _patches(self, frames: Tensor, index: int, level: int) -> Tensor:
        """Patches (patches, C·49) of the frames (T, C, H, W) of a clip, or the one of an image.

        Their places depend on (seed, index, level).
        """
        generator = derive_generator(self.options.seed, "patches", index, level)
        windows = frames.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
        rows, columns, times = (
            torch.randint(count, (self.options.patches,), generator=generator)
            for count in (*windows.shape[2:4], len(frames))
        )
        return rearrange(windows[times, :, rows, columns], "n c h w -> n (c h w)")

    def against(self, reference: Features) -> Callable[[Features], Values]:
        """Mean over the levels, then each level; of the first n images where one set has more than the other."""

        def measure(samples: Features) -> Values:
            # Not in the order of either set: one that was stored comes back in another, and sums have an order.
            names = [format_size(size) for size in self.levels]
            levels = {f"swd_{name}": self._distance(reference[name], samples[name], name) for name in names}
            return {"swd": sum(levels.values()) / len(levels), **levels}

        return measure

    def _distance(self, first: Tensor, second: Tensor, name: str) -> float:
        count = min(len(first), len(second))
        generator = derive_generator(self.options.seed, "directions", name)
        directions = torch.randn(first.shape[-1], self.options.directions, generator=generator)
        directions = F.normalize(directions, dim=0).to(self.facts.device)
        sets = [normalised(part[:count].to(self.facts.device), self.facts.channels) for part in (first, second)]
        return _SCALE * sliced_wasserstein(sets[0], sets[1], directions)


def sliced_wasserstein(first: Tensor, second: Tensor, directions: Tensor) -> float:
    """Mean over directions (D, K) of the 1-D Wasserstein distance between the projections of two sets (N, D)."""
    total = 0.0
    for part in directions.split(_DIRECTIONS_AT_ONCE, dim=1):
        difference = _sorted(part.T @ first.T) - _sorted(part.T @ second.T)
        total += float(difference.abs().mean(1).cpu().double().sum())
    return total / directions.shape[1]


def _sorted(rows: Tensor) -> Tensor:
    if rows.device.type == "cpu":
        return torch.from_numpy(np.sort(rows.numpy(), axis=-1))  # three times as fast as torch's, which keeps indices
    return rows.sort(-1).values


def normalised(patches: Tensor, channels: int) -> Tensor:
    """Patches (N, P, C·49) of a set as (N·P, C·49), every channel of mean 0 and standard deviation 1 over the set."""
    values = rearrange(patches, "n p (c k) -> (n p) c k", c=channels)
    mean = values.mean((0, 2), keepdim=True)
    std = values.std((0, 2), keepdim=True, correction=0).clamp_min(1e-8)
    return rearrange((values - mean) / std, "n c k -> n (c k)")


def laplacian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """Images (B, C, H, W) as band-passed levels, fine to coarse; the last is what is left. Burt and Adelson 1983."""
    gaussian = [images]
    for _ in range(levels - 1):
        gaussian.append(_blur(gaussian[-1])[..., ::2, ::2])
    fine = [level - _enlarged(coarse, level.shape) for level, coarse in pairwise(gaussian)]
    return [*fine, gaussian[-1]]


def _enlarged(images: Tensor, shape: torch.Size) -> Tensor:
    spread = images.new_zeros(shape)
    spread[..., ::2, ::2] = images
    return 4 * _blur(spread)


def _blur(images: Tensor) -> Tensor:
    """The binomial filter 1, 4, 6, 4, 1 along both axes, edges mirrored."""
    channels = images.shape[1]
    row = images.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(row, row).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)
