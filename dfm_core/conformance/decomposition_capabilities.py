"""Laws of decompositions that declare a capability: each is skipped where its capability is not declared."""

from __future__ import annotations

import torch
from torch import Tensor

from dfm_core.conformance.decomposition_measures import constant_like, deviation, keep, tolerance
from dfm_core.conformance.law import Measurement, at_most, law
from dfm_core.interfaces.decomposition import Decomposition


@law("decomposition", requires="linear")
def linear(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Decompose and recompose are linear."""
    y = x.flip(-1).roll(1, -2)
    stages, others = decomposition.decompose(x), decomposition.decompose(y)
    # The signs differ, so that a dependence on the sign of something shows.
    mixed = [0.25 * stage - 0.5 * other for stage, other in zip(stages, others, strict=True)]
    error = max(map(deviation, decomposition.decompose(0.25 * x - 0.5 * y), mixed))
    apart = 0.25 * decomposition.recompose(stages) - 0.5 * decomposition.recompose(others)
    error = max(error, deviation(decomposition.recompose(mixed), apart))
    remedy = "do not declare `linear`"
    return keep(error, tolerance(decomposition, x), "the stages of a mixture are not the mixture of the stages", remedy)


@law("decomposition", requires="orthonormal")
def orthonormal(decomposition: Decomposition, x: Tensor) -> Measurement:
    """The squared norm is kept: a stage counts as often as a pixel of its preview covers pixels of the input."""
    # The weight is the square of the gain that unit gain divides out of an orthonormal transform.
    covered = [x[0, 0].numel() / torch.Size(size).numel() for size in decomposition.scaled_sizes(x.shape[2:])]
    stages = decomposition.decompose(x)
    shuffled = [stage.flip(tuple(range(stage.ndim))) for stage in stages]
    error = 0.0
    for whole, parts in ((x, stages), (decomposition.recompose(shuffled), shuffled)):
        norm = sum(weight * part.double().square().sum() for weight, part in zip(covered, parts, strict=True))
        error = max(error, abs(float(norm / whole.double().square().sum()) - 1))
    remedy = "scale each stage to the orthonormal coefficients of its preview, or do not declare `orthonormal`"
    return keep(error, tolerance(decomposition, x), "squared norms of stages and data differ by this share", remedy)


@law("decomposition", requires="critically_sampled")
def critically_sampled(decomposition: Decomposition, x: Tensor) -> Measurement:
    """The stages have as many elements as the input."""
    elements, pixels = sum(stage.numel for stage in decomposition.layout(x.shape[1:])), x[0].numel()
    excess = abs(elements - pixels)
    return at_most(excess, 0, f"{elements} elements for {pixels} of the input; do not declare `critically_sampled`")


@law("decomposition", requires="zero_mean_details")
def zero_mean_details(decomposition: Decomposition, x: Tensor) -> Measurement:
    """All stages after the first are empty for a constant image."""
    details = decomposition.decompose(constant_like(x))[1:]
    largest = max((float(stage.abs().max()) for stage in details), default=0.0)
    return keep(
        largest, tolerance(decomposition, x), "details of a constant image", "do not declare `zero_mean_details`"
    )
