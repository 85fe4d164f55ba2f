"""Features of I3D, from weights that the user has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import ImageBatch, MetricFacts
from dfm_core.stages import format_size
from dfm_plugins.metrics.frames import as_frames
from dfm_plugins.metrics.frechet import Extractor
from dfm_plugins.metrics.i3d_network import CLASSES, FEWEST_FRAMES, I3D, POOLED
from dfm_plugins.metrics.inception import legacy_weights
from dfm_plugins.metrics.specs import FvdOptions
from dfm_plugins.metrics.weights import file_digest, load_state

SIDE = 224
_AT_ONCE = 4
"""Clips that the network gets at once: of 16 frames at 224 pixels, its first layer alone is 50 MB each."""


class I3DFeatures(Extractor):
    """The 400 logits, averaged over time, as Unterthiner et al. take them; or the 1024 features before them."""

    name = "i3d"

    def __init__(self, options: FvdOptions, facts: MetricFacts, metric: str) -> None:
        if facts.size[0] < FEWEST_FRAMES:
            raise UsageError(
                f"metric {metric}: expected clips of at least {FEWEST_FRAMES} frames for I3D, got "
                f"{format_size(facts.size)}; --set {metric}.network=videomae takes any number"
            )
        self.options, path = options, Path(options.path)
        self.dimensions = CLASSES if options.features == "logits" else POOLED
        network = empty_network()
        load_state(network, path, metric)
        self.network = network.to(facts.device).eval().requires_grad_(False)
        self._variant = {"network": "I3D of Kinetics-400", "file": path.name, "digest": file_digest(path)}

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """File, its digest, which features, and how frames were resized."""
        return {**self._variant, "features": self.options.features, "resize": self.options.resize}

    def __call__(self, batch: ImageBatch) -> Tensor:
        """Return features (B, 400) or (B, 1024)."""
        describe = self.network if self.options.features == "logits" else self.network.features
        return torch.cat([describe(resized(clips, self.options.resize)) for clips in batch.images.split(_AT_ONCE)])


def empty_network() -> I3D:
    """A network whose weights come from a file; torch's random state stays as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = I3D()
    return network.to_empty(device="cpu")


def resized(clips: Tensor, way: str) -> Tensor:
    """Clips (B, 1 or 3, T, H, W) in [-1, 1] as the network gets them, (B, 3, T, 224, 224) in [-1, 1].

    Bilinear without antialiasing; tensorflow: `resize_bilinear` of TensorFlow 1 (pixel i lies at i), as the original
    code; pytorch: `interpolate` (pixel i lies at i + 1/2). Grey is shown as RGB.
    """
    if way == "pytorch":
        frames = F.interpolate(as_frames(clips), (SIDE, SIDE), mode="bilinear", align_corners=False)
        there = frames.unflatten(0, (len(clips), -1)).transpose(1, 2)
    else:
        rows, columns = (legacy_weights(length, SIDE).to(clips) for length in clips.shape[-2:])
        there = rows @ clips @ columns.T
    return there.expand(-1, 3, -1, -1, -1)
