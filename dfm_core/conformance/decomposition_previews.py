"""Laws of what the first k stages recompose to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from dfm_core.conformance.decomposition_measures import constant_like, keep, rms, tolerance
from dfm_core.conformance.law import LawBroken, Measurement, law
from dfm_core.interfaces.decomposition import Decomposition

LEAST_OF_SLOW_WAVE = 0.7
MOST_OF_FAST_WAVE = 0.5


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
    layout = decomposition.layout(x.shape[1:])
    changes = [coarsest != length for coarsest, length in zip(layout[0].resolution, x.shape[2:], strict=True)]
    slow, fast = _waves(x, changes, decomposition.causal)
    slow_stages, fast_stages = decomposition.decompose(slow), decomposition.decompose(fast)
    share = 0.0
    for count, shape in enumerate(layout, start=1):
        lengths = list(itertools.compress(zip(shape.resolution, x.shape[2:], strict=True), changes))
        if all(coarse >= 8 or coarse == fine for coarse, fine in lengths):
            kept = float(rms(decomposition.recompose(slow_stages[:count])) / rms(slow))
            if not kept >= LEAST_OF_SLOW_WAVE:
                raise LawBroken(
                    f"preview {count} keeps {kept:.2f} of a wave as long as the image, expected at least "
                    f"{LEAST_OF_SLOW_WAVE}: the coarse structure belongs to the first stages"
                )
        if lengths and all(2 * fine >= 3 * coarse for coarse, fine in lengths):
            share = max(share, float(rms(decomposition.recompose(fast_stages[:count])) / rms(fast)))
    remedy = "low-pass before subsampling"
    return keep(share, MOST_OF_FAST_WAVE, "a preview shows this share of a wave that is too fast for it", remedy)


def _waves(x: Tensor, changes: Sequence[bool], causal: bool) -> tuple[Tensor, Tensor]:
    """The slowest and the fastest wave along the axes whose length changes, (B, C, *spatial); along all if none does.

    On a causal time grid the first frame has no wave in time: it is not a sample of that signal.
    """
    slow, fast = torch.zeros_like(x), torch.zeros_like(x)
    for axis, length in enumerate(x.shape[2:], start=2):
        if any(changes) and not changes[axis - 2]:
            continue
        apart = int(causal and axis == 2)
        position = torch.arange(length - apart, device=x.device).view(-1, *[1] * (x.ndim - axis - 1))
        place = (slice(None),) * axis + (slice(apart, None),)
        slow[place] += torch.cos(2 * torch.pi * (position + 0.5) / (length - apart)).to(x)
        fast[place] += (1 - 2 * (position % 2)).to(x)
    return slow, fast


@law("decomposition")
def unit_gain(decomposition: Decomposition, x: Tensor) -> Measurement:
    """Every preview of a constant image is that constant: the low band keeps the mean."""
    constant = constant_like(x)
    stages = decomposition.decompose(constant.clone())
    value = constant[(slice(None), slice(None), *[slice(1)] * (x.ndim - 2))]
    error = max(float((decomposition.recompose(stages[: k + 1]) - value).abs().max()) for k in range(len(stages)))
    remedy = (
        "divide the low band by its gain (√r per axis of ratio r for an orthonormal transform), and multiply it back"
    )
    return keep(error, tolerance(decomposition, x), "previews of a constant image differ from it", remedy)
