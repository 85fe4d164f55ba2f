"""FID and Inception score, from weights that the user has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import Features, ImageBatch, MetricFacts, Values
from dfm_plugins.metrics.frames import as_frames, noun_of, spread
from dfm_plugins.metrics.frechet import FEATURES, Extractor, FeatureMetric, FrechetDistance, most_kept
from dfm_plugins.metrics.inception_network import FEATURES as DIMENSIONS
from dfm_plugins.metrics.inception_network import FidInception
from dfm_plugins.metrics.specs import FidOptions, FrameFidOptions, InceptionOptions, InceptionScoreOptions
from dfm_plugins.metrics.weights import file_digest, load_state

SIDE = 299
_AT_ONCE = 64
"""Frames that the network gets at once."""


class InceptionFeatures(Extractor):
    """The 2048 features before the last layer of the FID Inception. Grey images are shown as RGB."""

    name, dimensions = "inception", DIMENSIONS

    def __init__(self, options: InceptionOptions, facts: MetricFacts, metric: str) -> None:
        if facts.channels not in (1, 3):
            raise UsageError(f"metric {metric}: expected {noun_of(facts)} of 1 or 3 channels, got {facts.channels}")
        self.options, path = options, Path(options.path)
        network = empty_network()
        load_state(network, path, metric)
        self.network = network.to(facts.device).eval().requires_grad_(False)
        self._variant = {"network": "FID Inception", "file": path.name, "digest": file_digest(path)}

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """File, its digest, and how images were resized."""
        return {**self._variant, "resize": self.options.resize}

    def __call__(self, batch: ImageBatch) -> Tensor:
        """Return features (B, 2048)."""
        return self.describe(batch.images)

    def describe(self, images: Tensor) -> Tensor:
        """Features (B, 2048) of images (B, 1 or 3, H, W)."""
        features: Tensor = self.network(resized(images.expand(-1, 3, -1, -1), self.options.resize))
        return features


class FrameInceptionFeatures(InceptionFeatures):
    """Those of the frames of clips, each a vector of its own: of all frames, or of some at equal distances."""

    def __init__(self, options: FrameFidOptions, facts: MetricFacts, metric: str) -> None:
        super().__init__(options, facts, metric)
        self._places = spread(facts.size[0], options.frames and min(options.frames, facts.size[0]))
        self.vectors = len(self._places)

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """Beside the network, how many frames of a clip are looked at."""
        return {**super().variant, "frames": self.vectors}

    def __call__(self, batch: ImageBatch) -> Tensor:
        """Return features (B, frames, 2048)."""
        frames = as_frames(batch.images[:, :, self._places])
        described = torch.cat([self.describe(part) for part in frames.split(_AT_ONCE)])
        return described.unflatten(0, (-1, self.vectors))


def empty_network() -> FidInception:
    """A network whose weights come from a file; torch's random state stays as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = FidInception()
    return network.to_empty(device="cpu")


def resized(images: Tensor, way: str) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] as the network gets them, (B, 3, 299, 299).

    tensorflow: `resize_bilinear` of TensorFlow 1 (pixel i lies at i, not at i + 1/2), values (x − 128)/128 of 0…255.
    pytorch: `interpolate`, values in [-1, 1]. Neither has antialiasing.
    """
    if way == "pytorch":
        return F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
    rows, columns = (legacy_weights(length, SIDE).to(images) for length in images.shape[-2:])
    values = (images * 127.5 - 0.5) / 128  # = (x − 128)/128 for x = 127.5·(v + 1)
    return rows @ values @ columns.T


def legacy_weights(length: int, side: int) -> Tensor:
    """Weights (side, length) with which `resize_bilinear` of TensorFlow 1 resizes one axis."""
    places = torch.arange(side, dtype=torch.float64) * length / side
    low = places.floor().long().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    share = (places - low)[:, None]
    one_hot = torch.eye(length, dtype=torch.float64)
    return ((1 - share) * one_hot[low] + share * one_hot[high]).float()


class FrechetInceptionDistance(FrechetDistance):
    """FID."""

    options: FidOptions

    def __init__(self, options: FidOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts, InceptionFeatures(options, facts, "fid"), "fid")


class FrameFrechetInceptionDistance(FrechetDistance):
    """FID of the frames of clips. An interval draws clips anew, not frames: those of a clip are alike."""

    options: FrameFidOptions

    def __init__(self, options: FrameFidOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts, FrameInceptionFeatures(options, facts, "frame_fid"), "frame_fid")


class InceptionScore(FeatureMetric):
    """exp of the mean KL divergence between p(class | image) and p(class), averaged over splits.

    Logits without the bias, as in the original code; the reference plays no part.
    """

    better = "higher"
    options: InceptionScoreOptions
    extractor: InceptionFeatures

    def __init__(self, options: InceptionScoreOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts, InceptionFeatures(options, facts, "is"))
        self.resamples, self.kept_rows = options.resamples, most_kept(self.extractor)

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """Beside the network, the number of splits."""
        return {**super().variant, "splits": self.options.splits}

    def against(self, reference: Features) -> Callable[[Features], Values]:
        """Score the samples alone."""
        weight = self.extractor.network.fc.weight.cpu().double()

        def measure(samples: Features) -> Values:
            logs = (samples[FEATURES].double() @ weight.T).log_softmax(1)
            parts = logs.tensor_split(min(self.options.splits, len(logs)))
            return {"is": sum(map(inception_score, parts)) / len(parts)}

        return measure


def inception_score(log_probabilities: Tensor) -> float:
    """Score of log p(class | image), (N, classes)."""
    marginal = log_probabilities.exp().mean(0).log()
    return float((log_probabilities.exp() * (log_probabilities - marginal)).sum(1).mean().exp())
