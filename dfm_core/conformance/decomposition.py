"""Laws of decompositions. Each takes a built decomposition and an input that it accepts.

x: (B, C, *spatial) with B ≥ 2, values in about [-1, 1], spatial its finest stage size or a multiple of it. Run them for
several x: float32 and float64, square and not, and one to four stages; clips where it declares "video".
"""

from __future__ import annotations

import torch
from torch import Tensor

from dfm_core.conformance.decomposition_capabilities import (
    critically_sampled,
    linear,
    orthonormal,
    zero_mean_details,
)
from dfm_core.conformance.decomposition_clips import (
    frames_are_split_on_their_own,
    the_first_frame_is_a_picture,
)
from dfm_core.conformance.decomposition_measures import (
    check_gradient,
    check_refused,
    deviation,
    enlarged,
    keep,
    noise_stages,
    tolerance,
)
from dfm_core.conformance.decomposition_previews import (
    previews_go_coarse_to_fine,
    previews_have_their_resolution,
    unit_gain,
)
from dfm_core.conformance.decomposition_purity import (
    device_follows_the_input,
    dtype_follows_the_input,
    inputs_unchanged,
    repeatable,
    samples_are_independent,
    unaffected_by_autocast,
)
from dfm_core.conformance.law import LawBroken, Measurement, law
from dfm_core.errors import StageShapeError
from dfm_core.interfaces.decomposition import Decomposition

__all__ = [
    "accepts_arbitrary_stages",
    "critically_sampled",
    "device_follows_the_input",
    "dtype_follows_the_input",
    "frames_are_split_on_their_own",
    "gradients_flow",
    "inputs_unchanged",
    "linear",
    "orthonormal",
    "perfect_reconstruction",
    "previews_go_coarse_to_fine",
    "previews_have_their_resolution",
    "repeatable",
    "samples_are_independent",
    "shapes_as_declared",
    "the_first_frame_is_a_picture",
    "unaffected_by_autocast",
    "unit_gain",
    "whole_stages_stand_alone",
    "works_at_other_sizes",
    "wrong_shapes_are_refused",
    "zero_mean_details",
]


@law("decomposition")
def shapes_as_declared(decomposition: Decomposition, x: Tensor) -> Measurement:
    """The stages have the shapes of `layout`, and its resolutions are the stage sizes, scaled to the input."""
    layout = decomposition.layout(x.shape[1:])
    sizes = decomposition.scaled_sizes(x.shape[2:])
    if tuple(stage.resolution for stage in layout) != sizes:
        raise LawBroken(
            f"layout resolutions are {[s.resolution for s in layout]}, expected the stage sizes {list(sizes)}"
        )
    stages = decomposition.decompose(x)
    try:
        layout.check(stages)
    except StageShapeError as error:
        raise LawBroken(f"decompose returns other shapes than layout declares: {error}") from error
    if any(len(stage) != len(x) for stage in stages):
        raise LawBroken(f"batch of {len(x)}, but stages of {[len(stage) for stage in stages]} samples")
    return Measurement()


@law("decomposition")
def perfect_reconstruction(decomposition: Decomposition, x: Tensor) -> Measurement:
    """recompose(decompose(x)) is x, to float precision."""
    error = deviation(decomposition.recompose(decomposition.decompose(x.clone())), x)
    return keep(
        error, tolerance(decomposition, x), "recompose(decompose(x)) misses x", "make recompose the exact inverse"
    )


@law("decomposition")
def accepts_arbitrary_stages(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Any tensors of the declared shapes recompose: generation starts from noise, no decomposition of an image."""
    stages = noise_stages(decomposition, x)
    for count in range(1, len(stages) + 1):
        if not decomposition.recompose(stages[:count]).isfinite().all():
            raise LawBroken(
                f"{count} stages of Gaussian noise recompose to values that are not finite, expected finite ones: "
                "generated stages are no decomposition of an image"
            )
    return Measurement()


@law("decomposition")
def gradients_flow(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Every stage passes gradients to the input, and the recomposed data to every stage that it is made of."""
    leaf = x.detach().clone().requires_grad_()
    for index, stage in enumerate(decomposition.decompose(leaf)):
        check_gradient(stage, leaf, f"from stage {index + 1} to the input of decompose")
    leaves = [stage.detach().clone().requires_grad_() for stage in decomposition.decompose(x)]
    for index, stage in enumerate(leaves):
        if decomposition.whole_stages and index < len(leaves) - 1:
            continue
        check_gradient(decomposition.recompose(leaves), stage, f"from the result of recompose to stage {index + 1}")
    return Measurement()


@law("decomposition")
def whole_stages_stand_alone(decomposition: Decomposition, x: Tensor) -> Measurement:
    """With several stages, `whole_stages` says truly whether recomposing returns the last of them."""
    stages = noise_stages(decomposition, x)
    if len(stages) == 1:
        return Measurement()
    result = decomposition.recompose(stages)
    alone = result.shape == stages[-1].shape and torch.equal(result, stages[-1])
    if alone != decomposition.whole_stages:
        raise LawBroken(
            f"whole_stages is {decomposition.whole_stages}, and recompose {'returns' if alone else 'does not return'} "
            "the last stage as it is; make the two agree"
        )
    return Measurement()


@law("decomposition")
def wrong_shapes_are_refused(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Tensors of other shapes than declared raise StageShapeError."""
    stages = list(decomposition.decompose(x))
    check_refused("an input with a channel too many", decomposition.decompose, torch.cat([x, x[:, :1]], dim=1))
    check_refused("an input with a spatial dimension too few", decomposition.decompose, x[..., 0])
    check_refused("no stage", decomposition.recompose, [])
    check_refused("a stage too many", decomposition.recompose, [*stages, stages[-1]])
    for index, stage in enumerate(stages):
        changes = {"a channel too many": torch.cat([stage, stage[:, :1]], dim=1)}
        if len(stages) > 1:
            changes["a column too many"] = torch.cat([stage, stage[..., :1]], dim=-1)
            changes["a sample too few"] = stage[1:]
        for what, changed in changes.items():
            changed_stages = [*stages[:index], changed, *stages[index + 1 :]]
            check_refused(f"stage {index + 1} with {what}", decomposition.recompose, changed_stages)
    return Measurement()


@law("decomposition")
def works_at_other_sizes(decomposition: Decomposition, x: Tensor) -> Measurement:
    """An input twice as large splits and recomposes: only the ratios of the stage sizes are fixed."""
    larger = enlarged(decomposition, x)
    try:
        got = decomposition.recompose(decomposition.decompose(larger)).shape
    except StageShapeError as error:
        raise LawBroken(f"input {tuple(larger.shape)} is refused: {error} Take the sizes from the input") from error
    if got != larger.shape:
        raise LawBroken(f"input {tuple(larger.shape)} came back as {tuple(got)}; take the sizes from the input")
    return Measurement()
