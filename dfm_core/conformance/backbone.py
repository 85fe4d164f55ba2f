"""The laws of backbones. Each takes a built backbone, leaves it untouched, and draws its own small batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dfm_core.conformance.backbone_examples import (
    Example,
    enlarged,
    example_for,
    placement,
    prefixes,
    randomize,
    relative_change,
    visible_only,
    weighted_sum,
)
from dfm_core.conformance.law import LawBroken, Measurement, law
from dfm_core.interfaces.backbone import Backbone
from dfm_core.randomness import derive_generator

NOTICEABLE = 1e-5
"""Smallest relative change of an output that counts as one; float32 rounding stays below."""


@law("backbone")
def keeps_shapes(backbone: Backbone, seed: int = 0) -> Measurement:
    """The velocities have the shapes and the dtype of the noisy stages."""
    network, generator = _prepared(backbone, seed, "shapes")
    example = example_for(network, prefixes(_count(network)), generator)
    velocities = example.velocities(network)
    _check_shapes(example.noisy_stages, velocities)
    for index, (stage, velocity) in enumerate(zip(example.noisy_stages, velocities, strict=True)):
        if velocity.dtype != stage.dtype:
            raise LawBroken(
                f"stage {index + 1}: expected {stage.dtype} as the input, got {velocity.dtype}; convert the result"
            )
    return Measurement()


@law("backbone")
def ignores_invisible_stages(backbone: Backbone, seed: int = 0) -> Measurement:
    """What stands at invisible stages, NaN included, does not change the velocities of visible ones."""
    network, generator = _prepared(backbone, seed, "invisible")
    patterns = [
        mask for mask in itertools.product((False, True), repeat=_count(network)) if any(mask) and not all(mask)
    ]
    if not patterns:
        return Measurement()
    example = example_for(network, torch.tensor(patterns[:32]), generator)
    worst = 0.0
    for replacement in (3.0, float("nan")):
        stages = tuple(
            torch.where(_over(example.visible[:, index], stage), stage, replacement)
            for index, stage in enumerate(example.noisy_stages)
        )
        before, after = example.velocities(network), replace(example, noisy_stages=stages).velocities(network)
        worst = max(worst, relative_change(visible_only(before, example.visible), visible_only(after, example.visible)))
    return _at_most(
        worst, 1e-6, "velocities of visible stages change with the values of invisible ones; select with torch.where"
    )


@law("backbone")
def keeps_samples_apart(backbone: Backbone, seed: int = 0) -> Measurement:
    """In eval mode the other samples of a batch do not change a sample's velocities."""
    network, generator = _prepared(backbone, seed, "samples")
    masks = torch.cat((prefixes(_count(network))[-1:], prefixes(_count(network))))
    example, other = (example_for(network, masks, generator) for _ in range(2))
    mixed = Example(
        tuple(torch.cat((a[:1], 5 * b[1:])) for a, b in zip(example.noisy_stages, other.noisy_stages, strict=True)),
        torch.cat((example.t[:1], other.t[1:])),
        torch.cat((example.visible[:1], other.visible[1:].flip(0))),
        None if example.label is None or other.label is None else torch.cat((example.label[:1], other.label[1:])),
    )
    first, second = ([v[:1] for v in batch.velocities(network)] for batch in (example, mixed))
    return _at_most(
        relative_change(first, second), NOTICEABLE, "a sample's velocities change with the other samples' content"
    )


@law("backbone")
def trains_every_parameter(backbone: Backbone, seed: int = 0) -> Measurement:
    """Every parameter gets a finite gradient that is not zero, over the prefixes of visible stages."""
    network, generator = _prepared(backbone, seed, "gradients")
    example = example_for(network, prefixes(_count(network)).repeat(2, 1), generator)
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
def depends_on_time(backbone: Backbone, seed: int = 0) -> Measurement:
    """The timestep of each visible stage changes the velocities."""
    network, generator = _prepared(backbone, seed, "time")
    example = example_for(network, prefixes(_count(network))[-1:], generator)
    before = example.velocities(network)
    changes = []
    for index in range(_count(network)):
        t = example.t.clone()
        t[:, index] = (t[:, index] + 0.37) % 1
        changes.append(relative_change(before, replace(example, t=t).velocities(network)))
    return _at_least(min(changes), "the velocities do not depend on the timestep of every stage; embed t")


@law("backbone")
def depends_on_visible_stages(backbone: Backbone, seed: int = 0) -> Measurement:
    """How many stages are visible changes the velocities of the stages that stay visible."""
    network, generator = _prepared(backbone, seed, "stage")
    masks = prefixes(_count(network))
    changes = []
    for count in range(1, _count(network)):
        more = example_for(network, masks[count][None], generator)
        fewer = replace(more, visible=masks[count - 1][None].to(more.visible), t=more.t * masks[count - 1].to(more.t))
        changes.append(relative_change(more.velocities(network)[:count], fewer.velocities(network)[:count]))
    if not changes:
        return Measurement()
    return _at_least(
        min(changes),
        "velocities do not depend on the number of visible stages; let stages see each other, embed the index",
    )


@law("backbone")
def depends_on_label(backbone: Backbone, seed: int = 0) -> Measurement:
    """Each label, and having none, gives velocities of its own; no label at all means the null label."""
    network, generator = _prepared(backbone, seed, "label")
    classes = backbone.facts.num_classes
    if not classes:
        return Measurement()
    example = example_for(network, prefixes(_count(network))[-1:], generator)
    unlabelled = replace(example, label=None).velocities(network)
    labels = sorted({0, classes - 1, classes})
    outputs = {
        label: replace(example, label=torch.full_like(example.t[:, 0], label, dtype=torch.int64)).velocities(network)
        for label in labels
    }
    if relative_change(unlabelled, outputs[classes]) > NOTICEABLE:
        raise LawBroken(f"label None and the null label {classes} give different velocities; treat them alike")
    changes = [relative_change(outputs[a], outputs[b]) for a, b in itertools.combinations(labels, 2)]
    return _at_least(min(changes), "the velocities do not depend on the label; embed conditioning.label")


@law("backbone")
def survives_state_dict(backbone: Backbone, seed: int = 0) -> Measurement:
    """A fresh backbone of the same options and facts, given the state dict, computes the same."""
    network, generator = _prepared(backbone, seed, "state_dict")
    example = example_for(network, prefixes(_count(network)), generator)
    device, dtype = placement(network)
    with torch.random.fork_rng(devices=[]):
        fresh = type(network)(network.options, network.facts).to(device, dtype).eval()
    fresh.load_state_dict({name: tensor.clone() for name, tensor in network.state_dict().items()})
    change = relative_change(example.velocities(network), example.velocities(fresh))
    return _at_most(change, 1e-6, "the state dict does not hold all that the output depends on; register it")


@law("backbone")
def runs_in_bfloat16(backbone: Backbone, seed: int = 0) -> Measurement:
    """Under bfloat16 autocast the velocities and the gradients are finite and keep their shapes."""
    network, generator = _prepared(backbone, seed, "bfloat16")
    example = example_for(network, prefixes(_count(network)), generator)
    device, _ = placement(network)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        velocities = example.velocities(network)
    _check_shapes(example.noisy_stages, velocities)
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
    """Twice the size, and twice the width alone, work with the same weights."""
    network, generator = _prepared(backbone, seed, "sizes")
    for height, width in ((2, 2), (1, 2)):
        layout = enlarged(network.facts.layout, height, width)
        shapes = ", ".join(str(stage.shape) for stage in layout)
        example = example_for(network, prefixes(_count(network)), generator, layout)
        try:
            velocities = example.velocities(network)
        except Exception as error:
            raise LawBroken(f"stages {shapes} of the training ratios failed: {error}") from error
        _check_shapes(example.noisy_stages, velocities)
        if not all(bool(torch.isfinite(velocity).all()) for velocity in velocities):
            raise LawBroken(f"stages {shapes}: the velocities are not finite")
    return Measurement()


@law("backbone")
def uses_no_global_randomness(backbone: Backbone, seed: int = 0) -> Measurement:
    """In eval mode torch's global random state is neither read nor changed."""
    network, generator = _prepared(backbone, seed, "global")
    example = example_for(network, prefixes(_count(network)), generator)
    results = []
    with torch.random.fork_rng():
        for global_seed in (1, 2):
            torch.manual_seed(global_seed)
            state = torch.get_rng_state()
            results.append(example.velocities(network))
            if not torch.equal(state, torch.get_rng_state()):
                raise LawBroken(
                    "the forward pass in eval mode draws from torch's global random state; it must not draw"
                )
    return _at_most(relative_change(*results), 1e-6, "the velocities depend on torch's global random state")


@law("backbone")
def leaves_inputs_alone(backbone: Backbone, seed: int = 0) -> Measurement:
    """The noisy stages, timesteps and masks are not modified."""
    network, generator = _prepared(backbone, seed, "inputs")
    example = example_for(network, prefixes(_count(network)), generator)
    kept = [tensor.clone() for tensor in (*example.noisy_stages, example.t, example.visible)]
    example.velocities(network)
    changed = sum(
        not torch.equal(before, after)
        for before, after in zip(kept, (*example.noisy_stages, example.t, example.visible), strict=True)
    )
    return _at_most(float(changed), 0.0, "input tensors were modified in place; make new ones")


def _prepared(backbone: Backbone, seed: int, purpose: str) -> tuple[Backbone, torch.Generator]:
    generator = derive_generator(seed, "conformance", "backbone", purpose)
    return randomize(backbone, generator), generator


def _count(backbone: Backbone) -> int:
    return len(backbone.facts.layout)


def _over(mask: Tensor, stage: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (stage.ndim - 1))


def _learns(parameter: Tensor) -> bool:
    gradient = parameter.grad
    return gradient is not None and bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())


def _check_shapes(stages: Sequence[Tensor], velocities: Sequence[Tensor]) -> None:
    want, got = [tuple(stage.shape) for stage in stages], [tuple(velocity.shape) for velocity in velocities]
    if want != got:
        raise LawBroken(f"expected velocities of the stages' shapes {want}, got {got}")


def _at_most(value: float, bound: float, otherwise: str) -> Measurement:
    if not value <= bound:
        raise LawBroken(f"{otherwise} (relative change {value:.2g}, at most {bound:.0e})")
    return Measurement(value, bound)


def _at_least(value: float, otherwise: str) -> Measurement:
    if not value > NOTICEABLE:
        raise LawBroken(f"{otherwise} (relative change {value:.2g}, more than {NOTICEABLE:.0e} expected)")
    return Measurement(value, NOTICEABLE)
