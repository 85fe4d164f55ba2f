"""Features of VideoMAE, from a model that transformers has saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dfm_core.interfaces.metric import ImageBatch, MetricFacts
from dfm_plugins.metrics.dinov2 import MEAN, STD, normalised
from dfm_plugins.metrics.frames import as_frames, spread
from dfm_plugins.metrics.frechet import Extractor
from dfm_plugins.metrics.specs import FvdOptions
from dfm_plugins.metrics.weights import folder_variant, load_pretrained

_AT_ONCE = 8


class VideoMaeFeatures(Extractor):
    """The mean of all tokens after the last layer; frames are taken at equal distances, as many as the model knows."""

    name = "videomae"

    def __init__(self, options: FvdOptions, facts: MetricFacts, metric: str) -> None:
        folder = Path(options.path)
        self.network = load_pretrained(folder, "VideoMAEModel", metric).to(facts.device)
        config = self.network.config
        self.dimensions, self._side = int(config.hidden_size), int(config.image_size)
        self._places = spread(facts.size[0], int(config.num_frames))
        self._variant = folder_variant(folder, "VideoMAE", config) | {"frames a patch": int(config.tubelet_size)}

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """Architecture, folder, digest of its weights, and what clips were made into."""
        return {**self._variant, "frames": len(self._places), "resolution": self._side}

    def __call__(self, batch: ImageBatch) -> Tensor:
        """Return features (B, D)."""
        return torch.cat([self._describe(clips) for clips in batch.images[:, :, self._places].split(_AT_ONCE)])

    def _describe(self, clips: Tensor) -> Tensor:
        """Features (B, D) of clips (B, 1 or 3, frames, H, W)."""
        frames = normalised(as_frames(clips), self._side, MEAN, STD)
        tokens: Tensor = self.network(pixel_values=frames.unflatten(0, (len(clips), -1))).last_hidden_state
        return tokens.mean(1)
