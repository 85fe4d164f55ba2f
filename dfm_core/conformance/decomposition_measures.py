"""What the laws of decompositions measure with: bounds, test inputs and checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dfm_core.conformance.law import LawBroken, Measurement, at_most
from dfm_core.errors import StageShapeError
from dfm_core.interfaces.decomposition import Decomposition
from dfm_core.randomness import derive_generator
from dfm_core.stages import Stages


def tolerance(decomposition: Decomposition, x: Tensor) -> float:
    """Largest deviation for x: 1e-5 in float32, in float64 1e-10, or 1e-8 where stages are no images (coefficients)."""
    scale = max(1.0, float(x.abs().max()))
    if x.dtype != torch.float64:
        return 1e-5 * scale
    are_images = all(stage.shape == (x.shape[1], *stage.resolution) for stage in decomposition.layout(x.shape[1:]))
    return (1e-10 if are_images else 1e-8) * scale


def deviation(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference."""
    return float((one.double() - other.double()).abs().max())


def keep(value: float, bound: float, what: str, remedy: str) -> Measurement:
    """Return the measurement; raise LawBroken where the value is above the bound or not a number."""
    return at_most(value, bound, f"{what}: {value:.3g}, expected at most {bound:.3g}; {remedy}")


def rms(x: Tensor) -> Tensor:
    """Root mean square over all elements, float64."""
    return x.double().square().mean().sqrt()


def constant_like(x: Tensor) -> Tensor:
    """A constant per sample and channel, of both signs, (B, C, *spatial)."""
    values = torch.linspace(-0.9, 0.7, x.shape[0] * x.shape[1], dtype=x.dtype, device=x.device)
    return values.view(*x.shape[:2], *[1] * (x.ndim - 2)).expand_as(x).contiguous()


def enlarged(decomposition: Decomposition, x: Tensor) -> Tensor:
    """x twice along every axis; on a causal time grid with twice the frames after the first."""
    larger = x.repeat(1, 1, *[2] * (x.ndim - 2))
    return larger[:, :, 1:] if decomposition.causal else larger


def noise_stages(decomposition: Decomposition, x: Tensor) -> Stages:
    """Gaussian noise of the declared shapes."""
    generator = derive_generator(0, "conformance")
    layout = decomposition.layout(x.shape[1:])
    return tuple(torch.randn(len(x), *stage.shape, generator=generator).to(x) for stage in layout)


def check_gradient(result: Tensor, leaf: Tensor, way: str) -> None:
    """Raise LawBroken unless the result has a finite, non-zero gradient at `leaf`."""
    gradient = None
    if result.requires_grad:
        # The graph is kept: the stages of one decomposition share its beginning.
        (gradient,) = torch.autograd.grad(result.square().sum(), leaf, retain_graph=True, allow_unused=True)
    if gradient is None or not gradient.isfinite().all() or not gradient.any():
        raise LawBroken(f"no finite, non-zero gradient {way}; use differentiable operations, and do not detach")


def check_refused(what: str, call: Callable[..., object], argument: Tensor | Sequence[Tensor]) -> None:
    """Raise LawBroken unless the call raises StageShapeError."""
    try:
        call(argument)
    except StageShapeError:
        return
    except Exception as error:
        raise LawBroken(f"{what} raised {type(error).__name__} ({error}); raise StageShapeError") from error
    raise LawBroken(f"{what} was accepted; check against the layout and raise StageShapeError")
