"""The laws of backbones. Each takes a built backbone, leaves it untouched, and draws its own small batches."""

from __future__ import annotations

import torch
from torch import Tensor

from dfm_core.conformance.backbone_blocks import runs_each_block_once
from dfm_core.conformance.backbone_dependence import (
    depends_on_label,
    depends_on_time,
    depends_on_visible_stages,
    ignores_invisible_stages,
    keeps_samples_apart,
)
from dfm_core.conformance.backbone_examples import (
    check_shapes,
    example_for,
    num_stages,
    other_layouts,
    placement,
    prefixes,
    prepared,
    relative_change,
    small_change,
    weighted_sum,
)
from dfm_core.conformance.global_randomness import under_two_seeds
from dfm_core.conformance.law import LawBroken, Measurement, law
from dfm_core.interfaces.backbone import Backbone

__all__ = [
    "depends_on_label",
    "depends_on_time",
    "depends_on_visible_stages",
    "ignores_invisible_stages",
    "keeps_samples_apart",
    "keeps_shapes",
    "leaves_inputs_alone",
    "runs_each_block_once",
    "runs_in_bfloat16",
    "survives_state_dict",
    "trains_every_parameter",
    "uses_no_global_randomness",
    "works_at_other_sizes",
]


@law("backbone")
def keeps_shapes(backbone: Backbone, seed: int = 0) -> Measurement:
    """The velocities have the shapes and the dtype of the noisy stages."""
    network, generator = prepared(backbone, seed, "shapes")
    example = example_for(network, prefixes(num_stages(network)), generator)
    velocities = example.velocities(network)
    check_shapes(example.noisy_stages, velocities)
    for index, (stage, velocity) in enumerate(zip(example.noisy_stages, velocities, strict=True)):
        if velocity.dtype != stage.dtype:
            raise LawBroken(
                f"stage {index + 1}: expected {stage.dtype} as the input, got {velocity.dtype}; convert the result"
            )
    return Measurement()


@law("backbone")
def trains_every_parameter(backbone: Backbone, seed: int = 0) -> Measurement:
    """Every parameter gets a finite gradient that is not zero, over the prefixes of visible stages."""
    network, generator = prepared(backbone, seed, "gradients")
    example = example_for(network, prefixes(num_stages(network)).repeat(2, 1), generator)
    weighted_sum(network, example, generator).backward()
    idle = [
        name for name, parameter in network.named_parameters() if parameter.requires_grad and not _learns(parameter)
    ]
    if idle:
        raise LawBroken(
            f"{len(idle)} parameters have a gradient of zero, none or NaN: {', '.join(idle[:5])}; use or remove them"
        )
    return Measurement(0.0, 0.0)


@law("backbone")
def survives_state_dict(backbone: Backbone, seed: int = 0) -> Measurement:
    """A fresh backbone of the same options and facts, given the state dict, computes the same."""
    network, generator = prepared(backbone, seed, "state_dict")
    example = example_for(network, prefixes(num_stages(network)), generator)
    device, dtype = placement(network)
    with torch.random.fork_rng(devices=[]):
        fresh = type(network)(network.options, network.facts).to(device, dtype).eval()
    fresh.load_state_dict({name: tensor.clone() for name, tensor in network.state_dict().items()})
    change = relative_change(example.velocities(network), example.velocities(fresh))
    return small_change(change, 1e-6, "the state dict does not hold all that the output depends on; register it")


@law("backbone")
def runs_in_bfloat16(backbone: Backbone, seed: int = 0) -> Measurement:
    """Under bfloat16 autocast the velocities and the gradients are finite and keep their shapes."""
    network, generator = prepared(backbone, seed, "bfloat16")
    example = example_for(network, prefixes(num_stages(network)), generator)
    device, _ = placement(network)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        velocities = example.velocities(network)
    check_shapes(example.noisy_stages, velocities)
    # A second context: within one, autocast reuses the weights that it converted without gradients.
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = weighted_sum(network, example, generator)
    loss.backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    broken = sum(int((~torch.isfinite(tensor)).sum()) for tensor in [*velocities, *gradients])
    if broken:
        raise LawBroken(f"{broken} values of velocities and gradients are not finite in bfloat16; keep sums in float32")
    return Measurement(0.0, 0.0)


@law("backbone")
def works_at_other_sizes(backbone: Backbone, seed: int = 0) -> Measurement:
    """Twice the size, twice the width alone, and of clips twice the frames and one frame work with the same weights."""
    network, generator = prepared(backbone, seed, "sizes")
    for layout in other_layouts(network.facts.layout):
        shapes = ", ".join(str(stage.shape) for stage in layout)
        example = example_for(network, prefixes(num_stages(network)), generator, layout)
        try:
            velocities = example.velocities(network)
        except Exception as error:
            raise LawBroken(f"stages {shapes} of the training ratios failed: {error}") from error
        check_shapes(example.noisy_stages, velocities)
        if not all(bool(torch.isfinite(velocity).all()) for velocity in velocities):
            raise LawBroken(f"stages {shapes}: the velocities are not finite")
    return Measurement()


@law("backbone")
def uses_no_global_randomness(backbone: Backbone, seed: int = 0) -> Measurement:
    """In eval mode the global random state is neither read nor changed."""
    network, generator = prepared(backbone, seed, "global")
    example = example_for(network, prefixes(num_stages(network)), generator)
    results = under_two_seeds(lambda: example.velocities(network), "the forward pass in eval mode")
    return small_change(relative_change(*results), 1e-6, "the velocities depend on the global random state")


@law("backbone")
def leaves_inputs_alone(backbone: Backbone, seed: int = 0) -> Measurement:
    """The noisy stages, timesteps and masks are not modified."""
    network, generator = prepared(backbone, seed, "inputs")
    example = example_for(network, prefixes(num_stages(network)), generator)
    kept = [tensor.clone() for tensor in (*example.noisy_stages, example.t, example.visible)]
    example.velocities(network)
    changed = sum(
        not torch.equal(before, after)
        for before, after in zip(kept, (*example.noisy_stages, example.t, example.visible), strict=True)
    )
    return small_change(float(changed), 0.0, "input tensors were modified in place; make new ones")


def _learns(parameter: Tensor) -> bool:
    gradient = parameter.grad
    return gradient is not None and bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())
