"""Fréchet video distance: of features that see a clip as a whole, how it looks and how it moves."""

from __future__ import annotations

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import MetricFacts
from dfm_plugins.metrics.frechet import Extractor, FrechetDistance
from dfm_plugins.metrics.i3d import I3DFeatures
from dfm_plugins.metrics.specs import FvdOptions
from dfm_plugins.metrics.videomae import VideoMaeFeatures


class FrechetVideoDistance(FrechetDistance):
    """FVD."""

    options: FvdOptions

    def __init__(self, options: FvdOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts, make_extractor(options, facts, "fvd"), "fvd")


def make_extractor(options: FvdOptions, facts: MetricFacts, metric: str) -> Extractor:
    """The chosen network. metric: for messages. Raises UsageError for clips that it cannot take."""
    if facts.channels not in (1, 3):
        raise UsageError(f"metric {metric}: expected clips of 1 or 3 channels, got {facts.channels}")
    network = I3DFeatures if options.network == "i3d" else VideoMaeFeatures
    return network(options, facts, metric)
