"""How much clips move: the change between frames some steps apart, in decibels; needs no weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import Features, ImageBatch, Metric, MetricFacts, Values
from dfm_plugins.metrics.specs import MotionOptions

_LEAST = 1e-12


class MotionDistance(Metric):
    """Mean over 1, 2, 4, … frames of |10·log₁₀(change of the samples / change of the reference)|, in decibels.

    The change over k frames is E(x(t+k) − x(t))² / 2Var(x), where the variance is over places and time: 0 for a still
    picture, 1 where frames have nothing to do with each other, whatever the contrast. It is 1 − ρ(k), of the
    autocorrelation in time. `motion_1` and so on keep their sign: positive where the samples change more.
    """

    options: MotionOptions

    def __init__(self, options: MotionOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts)
        if len(facts.size) != 3 or facts.size[0] < 2:
            raise UsageError(f"metric motion: expected clips of at least 2 frames, got size {facts.size}")
        self.resamples = options.resamples
        self.steps = [2**power for power in range(facts.size[0].bit_length()) if 2**power < facts.size[0]]

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """How many frames apart."""
        return {"frames apart": ", ".join(map(str, self.steps))}

    def features(self, batch: ImageBatch) -> Features:
        """{"change": (B, steps), "variance": (B, 1)}, float64."""
        clips = batch.images.cpu().double()
        changes = [(clips[:, :, step:] - clips[:, :, :-step]).square().mean((1, 2, 3, 4)) for step in self.steps]
        # Of each channel on its own: what differs between the channels is colour.
        variance = clips.var((2, 3, 4), correction=0).mean(1)
        return {"change": torch.stack(changes, 1), "variance": variance[:, None]}

    def against(self, reference: Features) -> Callable[[Features], Values]:
        """Compare the changes of either set."""
        expected = change(reference)

        def measure(samples: Features) -> Values:
            found = (10 * (change(samples) / expected).log10()).tolist()
            mean = sum(map(abs, found)) / len(found)
            return {"motion": mean, **{f"motion_{n}": value for n, value in zip(self.steps, found, strict=True)}}

        return measure


def change(features: Features) -> Tensor:
    """Change (steps,) of a set: sums over its clips are divided, so that still or empty ones weigh little."""
    return (features["change"].mean(0) / (2 * features["variance"].mean()).clamp_min(_LEAST)).clamp_min(_LEAST)
