"""What the tests of metrics share: smooth images, batches of them, a metric's number for two sets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dfm_core.interfaces.metric import ImageBatch, Metric, Values

CLASSES = 4


def textured_images(count: int, seed: int, kept: int = CLASSES) -> Tensor:
    """Gratings (count, 3, 32, 32); the class, i % kept, is their angle and frequency."""
    generator = torch.Generator().manual_seed(seed)
    phase, colour = (
        torch.rand(count, 1, 1, 1, generator=generator) * 6.28,
        torch.rand(count, 3, 1, 1, generator=generator),
    )
    label = (torch.arange(count) % kept)[:, None, None, None]
    angle, frequency = label * 0.785, 0.45 + 0.3 * label
    y, x = torch.arange(32.0)[:, None], torch.arange(32.0)
    waves = torch.sin(frequency * (x * torch.cos(angle) + y * torch.sin(angle)) + phase)
    return (0.6 * waves * (0.5 + colour) + 0.05 * torch.randn(count, 3, 32, 32, generator=generator)).clamp(-1, 1)


def smooth_images(count: int, seed: int, side: int = 32) -> Tensor:
    """Images (count, 3, side, side) with structure at every scale."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, side, side)
    for cells in (2, 4, 8, 16, side):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        images += F.interpolate(noise, (side, side), mode="bilinear", align_corners=False) * 0.35 * (2 / cells) ** 0.5
    return images.clamp(-1, 1)


def batch_of(images: Tensor, labels: Tensor | None = None) -> ImageBatch:
    """All images as one batch."""
    return ImageBatch(images, labels, tuple(range(len(images))))


def score(metric: Metric, reference: Tensor, samples: Tensor) -> Values:
    """Numbers of samples against a reference; the metric is ready."""
    return metric.against(metric.features(batch_of(reference)))(metric.features(batch_of(samples)))


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images with a Gaussian blur."""
    places = torch.arange(-6, 7, dtype=torch.float32)
    row = torch.exp(-0.5 * (places / sigma) ** 2)
    row /= row.sum()
    padded = F.pad(images, (6, 6, 6, 6), mode="reflect")
    down = F.conv2d(padded, row[:, None].expand(3, 1, 13, 1), groups=3)
    return F.conv2d(down, row[None, :].expand(3, 1, 1, 13), groups=3)


def noisy(images: Tensor, amount: float) -> Tensor:
    """Images with white noise."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    return (images + amount * noise).clamp(-1, 1)
