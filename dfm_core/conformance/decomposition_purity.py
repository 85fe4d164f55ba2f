"""Laws of what a decomposition's result depends on: its input alone, sample by sample, in any precision and place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dfm_core.conformance.decomposition_measures import deviation, keep, noise_stages, tolerance
from dfm_core.conformance.global_randomness import under_two_seeds
from dfm_core.conformance.law import LawBroken, LawSkipped, Measurement, law
from dfm_core.interfaces.decomposition import Decomposition
from dfm_core.stages import Stages


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
    """The same input gives the same bits, whatever was called in between; no global random state is read or changed."""

    def once() -> Stages:
        stages = decomposition.decompose(x.clone())
        previews = _all_previews(decomposition, stages)
        decomposition.recompose(decomposition.decompose(-x))
        return (*stages, *previews, *_all_previews(decomposition, stages))

    first, again = under_two_seeds(once, "a decomposition")
    previews = first[decomposition.num_stages :]
    half = len(previews) // 2
    if not all(map(torch.equal, first, again)) or not all(map(torch.equal, previews[:half], previews[half:])):
        raise LawBroken("the second call with the same tensors gave other bits; keep no state between calls")
    return Measurement()


@law("decomposition")
def samples_are_independent(decomposition: Decomposition, x: Tensor) -> Measurement:
    """A sample's stages and previews do not depend on the rest of the batch."""
    noise = noise_stages(decomposition, x)
    together = (*decomposition.decompose(x.clone()), *_all_previews(decomposition, noise))
    errors = []
    for index in range(len(x)):
        own = slice(index, index + 1)
        stages = decomposition.decompose(x[own].clone())
        alone = (*stages, *_all_previews(decomposition, tuple(stage[own] for stage in noise)))
        errors += [deviation(batch[own], one) for batch, one in zip(together, alone, strict=True)]
    remedy = "use no statistics or order of the batch"
    return keep(max(errors), tolerance(decomposition, x), "a sample depends on the others", remedy)


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
def device_follows_the_input(decomposition: Decomposition, x: Tensor) -> Measurement:
    """On an accelerator, where there is one, stages and previews lie there and are those of the CPU."""
    if not torch.accelerator.is_available():
        raise LawSkipped("this machine has no accelerator")
    device = torch.accelerator.current_accelerator()
    moved = x.to(device, torch.float32)  # MPS has no float64
    stages = decomposition.decompose(moved)
    _check_device("decompose", moved, stages)
    _check_device("recompose", moved, [decomposition.recompose(stages)])
    here = decomposition.decompose(x.float())
    error = max(deviation(one.cpu(), other) for one, other in zip(stages, here, strict=True))
    remedy = "use the same method on every device"
    return keep(error, 1e-3, "stages on the accelerator differ from those on the CPU", remedy)


@law("decomposition")
def unaffected_by_autocast(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Under autocast to bfloat16 the stages and the reconstruction are those without it."""
    if not torch.amp.is_autocast_available(x.device.type):
        return Measurement()
    stages = decomposition.decompose(x.clone())
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        inside = decomposition.decompose(x.clone())
        together = decomposition.recompose(stages)
    pairs = [*zip(inside, stages, strict=True), (together, decomposition.recompose(stages))]
    error = max(deviation(one, other) for one, other in pairs)
    remedy = "compute inside torch.autocast(device, enabled=False); ResidualPyramid does"
    return keep(error, tolerance(decomposition, x), "autocast changes the result", remedy)


def _all_previews(decomposition: Decomposition, stages: Stages) -> list[Tensor]:
    """What the first 1, 2, … S stages recompose to; copies are handed out."""
    return [decomposition.recompose([stage.clone() for stage in stages[:count]]) for count in range(1, len(stages) + 1)]


def _check_device(method: str, given: Tensor, tensors: Sequence[Tensor]) -> None:
    got = sorted({tensor.device.type for tensor in tensors})
    if got != [given.device.type]:
        raise LawBroken(
            f"{method} of tensors on {given.device.type} gives tensors on {', '.join(got)}; use the device of the input"
        )
