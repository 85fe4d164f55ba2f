"""Fréchet distance of DINOv2 features, from a model that transformers has saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import ImageBatch, MetricFacts
from dfm_plugins.metrics.frechet import Extractor, FrechetDistance
from dfm_plugins.metrics.specs import FddOptions
from dfm_plugins.metrics.weights import folder_variant, load_pretrained

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, in [0, 1]: what the network was trained with."""


class DinoFeatures(Extractor):
    """The class token after the last layer norm."""

    name = "dinov2"

    def __init__(self, options: FddOptions, facts: MetricFacts, metric: str) -> None:
        if facts.channels not in (1, 3):
            raise UsageError(f"metric {metric}: expected images of 1 or 3 channels, got {facts.channels}")
        folder = Path(options.path)
        self.options = options
        self.network = load_pretrained(folder, "Dinov2Model", metric).to(facts.device)
        self.dimensions = int(self.network.config.hidden_size)
        self._variant = folder_variant(folder, "DINOv2", self.network.config)

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """Architecture, folder, digest of its weights, and the size that images were resized to."""
        return {**self._variant, "resolution": self.options.resolution}

    def __call__(self, batch: ImageBatch) -> Tensor:
        """Return features (B, D)."""
        images = normalised(batch.images, self.options.resolution, MEAN, STD)
        features: Tensor = self.network(pixel_values=images).pooler_output
        return features


def normalised(images: Tensor, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images (B, 1 or 3, H, W) in [-1, 1] as (B, 3, side, side): bicubic with antialiasing, then mean and std."""
    there = F.interpolate(
        images.expand(-1, 3, -1, -1), (side, side), mode="bicubic", antialias=True, align_corners=False
    )
    centre, scale = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return ((there.clamp(-1, 1) + 1) / 2 - centre) / scale


class FrechetDinoDistance(FrechetDistance):
    """FDD."""

    options: FddOptions

    def __init__(self, options: FddOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts, DinoFeatures(options, facts, "fdd"), "fdd")
