"""The metric `example/kernel_distance`: do two sets of small pictures come from one distribution?"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from dfm_core.interfaces.metric import Features, ImageBatch, Metric, MetricFacts, Values
from torch import Tensor

from dfm_example.plugin import KernelDistanceOptions


class KernelDistance(Metric):
    """Unbiased estimate of the squared maximum mean discrepancy under (x·y/d + 1)³, × 1000; around 0 for one source.

    The kernel and the estimator of KID, on the pixels of shrunken images in place of Inception features.
    """

    options: KernelDistanceOptions
    better = "lower"

    def __init__(self, options: KernelDistanceOptions, facts: MetricFacts) -> None:
        super().__init__(options, facts)
        self.most_images = options.images

    def features(self, batch: ImageBatch) -> Features:
        """Describe images by their pixels at options.side × options.side, (B, C·side²)."""
        side = (self.options.side, self.options.side)
        small = F.interpolate(batch.images, side, mode="bilinear", antialias=True, align_corners=False)
        return {"pixels": small.flatten(1).double().cpu()}

    def against(self, reference: Features) -> Callable[[Features], Values]:
        """Average the kernel within the reference once."""
        real = reference["pixels"]
        within_real = mean_of_pairs(kernel(real, real))

        def measure(samples: Features) -> Values:
            made = samples["pixels"]
            distance = within_real + mean_of_pairs(kernel(made, made)) - 2 * kernel(made, real).mean()
            return {"kernel_distance": 1000 * float(distance)}

        return measure


def kernel(first: Tensor, second: Tensor) -> Tensor:
    """(x·y/d + 1)³ of every pair of rows, (N, d) and (M, d) -> (N, M)."""
    return (first @ second.T / first.shape[1] + 1) ** 3


def mean_of_pairs(values: Tensor) -> Tensor:
    """Mean of an (N, N) matrix without its diagonal: pairs of different images."""
    number = len(values)
    if number < 2:
        return torch.zeros((), dtype=values.dtype)
    return (values.sum() - values.diagonal().sum()) / (number * (number - 1))
