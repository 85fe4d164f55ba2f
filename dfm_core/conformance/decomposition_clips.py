"""Laws of what becomes of the frames of a clip."""

from __future__ import annotations

import torch
from torch import Tensor

from dfm_core.conformance.decomposition_measures import deviation, keep, noise_stages, tolerance
from dfm_core.conformance.law import LawBroken, LawSkipped, Measurement, law
from dfm_core.errors import StageShapeError
from dfm_core.interfaces.decomposition import Decomposition
from dfm_core.stages import Stages


@law("decomposition", requires="video")
def frames_are_split_on_their_own(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Where every stage has as many frames, a frame's stages and previews are those of a clip of it alone."""
    sizes = decomposition.facts.stage_sizes
    if len(sizes[-1]) != 3 or sizes[0][0] != sizes[-1][0]:
        raise LawSkipped("no clips with as many frames in every stage were accepted")
    stages, noise = decomposition.decompose(x.clone()), noise_stages(decomposition, x)
    together, error = decomposition.recompose(noise), 0.0
    for index in range(x.shape[2]):
        alone = _decomposed(decomposition, x[:, :, index : index + 1], "a clip of one frame")
        frame = decomposition.recompose([stage[:, :, index : index + 1] for stage in noise])
        pairs = [
            *zip(_frames(stages, index, index + 1), alone, strict=True),
            (together[:, :, index : index + 1], frame),
        ]
        error = max(error, *(deviation(one, other) for one, other in pairs))
    remedy = "split in space only; ResidualPyramid does"
    return keep(error, tolerance(decomposition, x), "a frame's stages depend on the other frames", remedy)


@law("decomposition", requires="video")
def the_first_frame_is_a_picture(decomposition: Decomposition, x: Tensor) -> Measurement:
    """On a causal time grid a clip of one frame has one in every stage, and no other frame changes these."""
    if not decomposition.causal:
        raise LawSkipped("no clips on a causal time grid were accepted")
    stages = decomposition.decompose(x.clone())
    alone = _decomposed(decomposition, x[:, :, :1], "a clip of one frame")
    counts = [stage.shape[2] for stage in alone]
    if set(counts) != {1}:
        raise LawBroken(f"a clip of one frame has {counts} frames in its stages, expected one in each")
    others = decomposition.decompose(torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, 1:]], dim=2))
    pairs = [
        *zip(_frames(stages, 0, 1), alone, strict=True),
        *zip(_frames(stages, 1, None), _frames(others, 1, None), strict=True),
        (decomposition.recompose(alone), x[:, :, :1]),
    ]
    error = max(deviation(one, other) for one, other in pairs)
    remedy = "split the first frame and the others apart; ResidualPyramid does"
    return keep(error, tolerance(decomposition, x), "the first frame and the others depend on each other", remedy)


def _decomposed(decomposition: Decomposition, x: Tensor, what: str) -> Stages:
    try:
        return decomposition.decompose(x.clone())
    except StageShapeError as error:
        raise LawBroken(f"{what} is refused ({error}); take the number of frames from the input") from error


def _frames(stages: Stages, start: int, stop: int | None) -> list[Tensor]:
    return [stage[:, :, start:stop] for stage in stages]
