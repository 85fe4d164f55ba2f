"""Laws of decompositions. Each takes a built decomposition and an input that it accepts.

x: (B, C, *spatial) with B ≥ 2, values in about [-1, 1], spatial its finest stage size or a multiple of it. Run them for
several x: float32 and float64, square and not, and one to four stages.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from dfm_core.conformance.decomposition_capabilities import (
    critically_sampled,
    linear,
    orthonormal,
    zero_mean_details,
)
from dfm_core.conformance.decomposition_measures import (
    check_gradient,
    check_refused,
    constant_like,
    deviation,
    keep,
    noise_stages,
    rms,
    tolerance,
)
from dfm_core.conformance.law import LawBroken, Measurement, law
from dfm_core.errors import StageShapeError
from dfm_core.interfaces.decomposition import Decomposition

__all__ = [
    "accepts_arbitrary_stages",
    "critically_sampled",
    "dtype_follows_the_input",
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
    "unaffected_by_autocast",
    "unit_gain",
    "works_at_other_sizes",
    "wrong_shapes_are_refused",
    "zero_mean_details",
]

LEAST_OF_SLOW_WAVE = 0.7
MOST_OF_FAST_WAVE = 0.5


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
    error = deviation(decomposition.recompose(decomposition.decompose(x)), x)
    return keep(
        error, tolerance(decomposition, x), "recompose(decompose(x)) misses x", "make recompose the exact inverse"
    )


@law("decomposition")
def previews_have_their_resolution(decomposition: Decomposition, x: Tensor) -> Measurement:
    """The first k stages recompose to (B, C, *resolution of stage k)."""
    stages = decomposition.decompose(x)
    for count, shape in enumerate(decomposition.layout(x.shape[1:]), start=1):
        want, got = (*x.shape[:2], *shape.resolution), tuple(decomposition.recompose(stages[:count]).shape)
        if got != want:
            raise LawBroken(f"the first {count} stages recompose to {got}, expected {want}: stage {count}'s resolution")
    return Measurement()


@law("decomposition")
def previews_go_coarse_to_fine(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Previews keep a wave as long as the image, and drop one that is too fast for them instead of aliasing it."""
    slow, fast = torch.zeros_like(x), torch.zeros_like(x)
    for axis, length in enumerate(x.shape[2:], start=2):
        position = torch.arange(length, device=x.device).view(-1, *[1] * (x.ndim - axis - 1))
        slow += torch.cos(2 * torch.pi * (position + 0.5) / length).to(x)
        fast += (1 - 2 * (position % 2)).to(x)
    slow_stages, fast_stages = decomposition.decompose(slow), decomposition.decompose(fast)
    share = 0.0
    for count, shape in enumerate(decomposition.layout(x.shape[1:]), start=1):
        if min(shape.resolution) >= 8:
            kept = float(rms(decomposition.recompose(slow_stages[:count])) / rms(slow))
            if not kept >= LEAST_OF_SLOW_WAVE:
                raise LawBroken(
                    f"preview {count} keeps {kept:.2f} of a wave as long as the image, expected at least "
                    f"{LEAST_OF_SLOW_WAVE}: the coarse structure belongs to the first stages"
                )
        if all(2 * fine >= 3 * coarse for coarse, fine in zip(shape.resolution, x.shape[2:], strict=True)):
            share = max(share, float(rms(decomposition.recompose(fast_stages[:count])) / rms(fast)))
    remedy = "low-pass before subsampling"
    return keep(share, MOST_OF_FAST_WAVE, "a preview shows this share of a wave that is too fast for it", remedy)


@law("decomposition")
def unit_gain(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Every preview of a constant image is that constant: the low band keeps the mean."""
    constant = constant_like(x)
    stages = decomposition.decompose(constant)
    value = constant[(slice(None), slice(None), *[slice(1)] * (x.ndim - 2))]
    error = max(float((decomposition.recompose(stages[: k + 1]) - value).abs().max()) for k in range(len(stages)))
    remedy = (
        "divide the low band by its gain (√r per axis of ratio r for an orthonormal transform), and multiply it back"
    )
    return keep(error, tolerance(decomposition, x), "previews of a constant image differ from it", remedy)


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
def inputs_unchanged(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Neither decompose nor recompose writes into its argument."""
    given = x.clone()
    stages = [stage.clone() for stage in decomposition.decompose(given)]
    copies = [stage.clone() for stage in stages]
    decomposition.recompose(copies)
    if not torch.equal(given, x):
        raise LawBroken("decompose changed its input; work on a new tensor")
    for index, (stage, copy) in enumerate(zip(stages, copies, strict=True)):
        if not torch.equal(stage, copy):
            raise LawBroken(f"recompose changed stage {index + 1} in place; work on a new tensor")
    return Measurement()


@law("decomposition")
def repeatable(decomposition: Decomposition, x: Tensor) -> Measurement:
    """The same input gives the same bits, whatever was called in between, and no global random state is used."""
    before = torch.get_rng_state(), random.getstate()
    first = decomposition.decompose(x)
    preview = decomposition.recompose([stage.clone() for stage in first])
    decomposition.recompose(decomposition.decompose(-x))
    again = decomposition.decompose(x)
    if not all(map(torch.equal, first, again)) or not torch.equal(preview, decomposition.recompose(again)):
        raise LawBroken("the second call with the same tensors gave other bits; keep no state between calls")
    if not torch.equal(before[0], torch.get_rng_state()) or before[1] != random.getstate():
        raise LawBroken("the global random state changed; a decomposition draws nothing")
    return Measurement()


@law("decomposition")
def samples_are_independent(decomposition: Decomposition, x: Tensor) -> Measurement:
    """A sample's stages and previews do not depend on the rest of the batch."""
    stages, alone = decomposition.decompose(x), decomposition.decompose(x[:1])
    noise = noise_stages(decomposition, x)
    together, single = decomposition.recompose(noise), decomposition.recompose([stage[:1] for stage in noise])
    pairs = [*zip(stages, alone, strict=True), (together, single)]
    error = max(deviation(batch[:1], one) for batch, one in pairs)
    remedy = "use no statistics or order of the batch"
    return keep(error, tolerance(decomposition, x), "the first sample depends on the others", remedy)


@law("decomposition")
def gradients_flow(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Every stage passes gradients to the input, and the recomposed data to every stage."""
    leaf = x.detach().clone().requires_grad_()
    for index, stage in enumerate(decomposition.decompose(leaf)):
        check_gradient(stage, leaf, f"from stage {index + 1} to the input of decompose")
    leaves = [stage.detach().clone().requires_grad_() for stage in decomposition.decompose(x)]
    for index, stage in enumerate(leaves):
        check_gradient(decomposition.recompose(leaves), stage, f"from the result of recompose to stage {index + 1}")
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
def dtype_follows_the_input(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Stages and previews have the dtype of what came in, half precision included."""
    for dtype in (x.dtype, torch.float32, torch.bfloat16, torch.float16):
        stages = decomposition.decompose(x.to(dtype))
        got = {*(stage.dtype for stage in stages), decomposition.recompose([s.to(dtype) for s in stages]).dtype}
        if got != {dtype}:
            raise LawBroken(f"{dtype} came in, {', '.join(map(str, got))} came out; convert back after computing")
    return Measurement()


@law("decomposition")
def unaffected_by_autocast(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Under autocast to bfloat16 the stages and the reconstruction are those without it."""
    if not torch.amp.is_autocast_available(x.device.type):
        return Measurement()
    stages = decomposition.decompose(x)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        inside = decomposition.decompose(x)
        together = decomposition.recompose(stages)
    pairs = [*zip(inside, stages, strict=True), (together, decomposition.recompose(stages))]
    error = max(deviation(one, other) for one, other in pairs)
    remedy = "compute inside torch.autocast(device, enabled=False); ResidualPyramid does"
    return keep(error, tolerance(decomposition, x), "autocast changes the result", remedy)


@law("decomposition")
def works_at_other_sizes(decomposition: Decomposition, x: Tensor) -> Measurement:
    """An input twice as large splits and recomposes: only the ratios of the stage sizes are fixed."""
    larger = x.repeat(1, 1, *[2] * (x.ndim - 2))
    try:
        got = decomposition.recompose(decomposition.decompose(larger)).shape
    except StageShapeError as error:
        raise LawBroken(f"input {tuple(larger.shape)} is refused: {error} Take the sizes from the input") from error
    if got != larger.shape:
        raise LawBroken(f"input {tuple(larger.shape)} came back as {tuple(got)}; take the sizes from the input")
    return Measurement()
