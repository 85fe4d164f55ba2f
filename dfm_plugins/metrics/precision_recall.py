"""Improved precision and recall: how many samples look real, how much of the real images they reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from dfm_core.errors import UsageError
from dfm_core.interfaces.metric import Features, MetricFacts, Values
from dfm_plugins.metrics import fvd
from dfm_plugins.metrics.classifier import ClassifierFeatures
from dfm_plugins.metrics.dinov2 import DinoFeatures
from dfm_plugins.metrics.frames import is_of_clips, noun_of
from dfm_plugins.metrics.frechet import FEATURES, Extractor, FeatureMetric
from dfm_plugins.metrics.inception import InceptionFeatures
from dfm_plugins.metrics.specs import FddOptions, FvdOptions, InceptionOptions, PrecisionRecallOptions

NETWORKS = {False: ("inception", "dinov2"), True: ("i3d", "videomae")}
"""Networks with weights, by whether clips are measured."""
_ROWS_AT_ONCE = 1024


class PrecisionRecall(FeatureMetric):
    """Kynkäänniemi et al. 2019: a set's manifold is the union of balls that reach to each image's k-th neighbour.

    precision: share of samples in the reference's manifold; recall: share of the reference in that of the samples. The
    value that stands for both is their harmonic mean.
    """

    better = "higher"
    options: PrecisionRecallOptions

    def __init__(self, options: PrecisionRecallOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts, make_extractor(options, facts))
        self.most_images, self.fewest_images = options.images, options.neighbours + 1

    @property
    def variant(self) -> Mapping[str, str | int | float]:
        """Beside the network, the number of neighbours."""
        return {**super().variant, "neighbours": self.options.neighbours}

    def against(self, reference: Features) -> Callable[[Features], Values]:
        """Find the radii of the reference; the function finds those of the samples."""
        real = reference[FEATURES].to(self.facts.device)
        real_radii = self._radii(real)

        def measure(samples: Features) -> Values:
            made = samples[FEATURES].to(self.facts.device)
            precision = share_inside(made, real, real_radii)
            recall = share_inside(real, made, self._radii(made))
            both = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            return {"precision_recall": both, "precision": precision, "recall": recall}

        return measure

    def _radii(self, features: Tensor) -> Tensor:
        if len(features) <= self.options.neighbours:
            raise UsageError(
                f"metric precision_recall: expected more than {self.options.neighbours} {noun_of(self.facts)} of "
                f"either set, got {len(features)}"
            )
        return neighbour_distances(features, self.options.neighbours)


def make_extractor(options: PrecisionRecallOptions, facts: MetricFacts) -> Extractor:
    """The chosen network. Raises UsageError for one of images where clips are measured, or the reverse."""
    if options.network == "classifier":
        return ClassifierFeatures(options, facts)
    fitting, path, metric = NETWORKS[is_of_clips(facts)], str(options.path), "precision_recall"
    if options.network not in fitting:
        raise UsageError(
            f"metric {metric}: {noun_of(facts)} are measured, which network {options.network} does not take; "
            f"--set {metric}.network={' or '.join(('classifier', *fitting))}"
        )
    if options.network == "inception":
        return InceptionFeatures(InceptionOptions(path=path), facts, metric)
    if options.network == "dinov2":
        return DinoFeatures(FddOptions(path=path), facts, metric)
    return fvd.make_extractor(FvdOptions(path=path, network=options.network), facts, metric)


def neighbour_distances(features: Tensor, neighbours: int) -> Tensor:
    """Distance (N,) of each of the features (N, D) to its k-th neighbour, itself not counted."""
    parts = [rows.kthvalue(neighbours + 1, dim=1).values for rows in _distances(features, features)]
    return torch.cat(parts)


def share_inside(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of points (N, D) that lie in at least one ball around centres (M, D) with radii (M,)."""
    inside = torch.cat([(rows <= radii).any(1) for rows in _distances(points, centres)])
    return float(inside.cpu().double().mean())


def _distances(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Euclidean distances, some rows at a time; not by a matrix product, which is wrong for near neighbours."""
    for rows in first.split(_ROWS_AT_ONCE):
        yield torch.cdist(rows, second, compute_mode="donot_use_mm_for_euclid_dist")
