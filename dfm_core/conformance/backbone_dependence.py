"""Laws of what a backbone's velocities depend on, and of what they do not."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from dfm_core.conformance.backbone_examples import (
    NOTICEABLE,
    Example,
    example_for,
    large_change,
    num_stages,
    prefixes,
    prepared,
    relative_change,
    small_change,
    visible_only,
)
from dfm_core.conformance.law import LawBroken, Measurement, law
from dfm_core.interfaces.backbone import Backbone

MOST_LABELS = 32
"""So many classes are tried, beside the null label."""


@law("backbone")
def ignores_invisible_stages(backbone: Backbone, seed: int = 0) -> Measurement:
    """What stands at invisible stages, NaN included, does not change the velocities of visible ones."""
    network, generator = prepared(backbone, seed, "invisible")
    patterns = [
        mask for mask in itertools.product((False, True), repeat=num_stages(network)) if any(mask) and not all(mask)
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
    return small_change(
        worst, 1e-6, "velocities of visible stages change with the values of invisible ones; select with torch.where"
    )


@law("backbone")
def keeps_samples_apart(backbone: Backbone, seed: int = 0) -> Measurement:
    """In eval mode the other samples of a batch do not change a sample's velocities."""
    network, generator = prepared(backbone, seed, "samples")
    masks = torch.cat((prefixes(num_stages(network))[-1:], prefixes(num_stages(network))))
    example, other = (example_for(network, masks, generator) for _ in range(2))
    mixed = Example(
        tuple(torch.cat((a[:1], 5 * b[1:])) for a, b in zip(example.noisy_stages, other.noisy_stages, strict=True)),
        torch.cat((example.t[:1], other.t[1:])),
        torch.cat((example.visible[:1], other.visible[1:].flip(0))),
        None if example.label is None or other.label is None else torch.cat((example.label[:1], other.label[1:])),
    )
    first, second = ([v[:1] for v in batch.velocities(network)] for batch in (example, mixed))
    return small_change(
        relative_change(first, second), NOTICEABLE, "a sample's velocities change with the other samples' content"
    )


@law("backbone")
def depends_on_time(backbone: Backbone, seed: int = 0) -> Measurement:
    """The timestep of each visible stage changes the velocities."""
    network, generator = prepared(backbone, seed, "time")
    example = example_for(network, prefixes(num_stages(network))[-1:], generator)
    before = example.velocities(network)
    changes = []
    for index in range(num_stages(network)):
        t = example.t.clone()
        t[:, index] = (t[:, index] + 0.37) % 1
        changes.append(relative_change(before, replace(example, t=t).velocities(network)))
    return large_change(min(changes), "the velocities do not depend on the timestep of every stage; embed t")


@law("backbone", requires="joint_stages")
def depends_on_visible_stages(backbone: Backbone, seed: int = 0) -> Measurement:
    """How many stages are visible changes the velocities of the stages that stay visible."""
    network, generator = prepared(backbone, seed, "stage")
    masks = prefixes(num_stages(network))
    changes = []
    for count in range(1, num_stages(network)):
        more = example_for(network, masks[count][None], generator)
        fewer = replace(more, visible=masks[count - 1][None].to(more.visible), t=more.t * masks[count - 1].to(more.t))
        changes.append(relative_change(more.velocities(network)[:count], fewer.velocities(network)[:count]))
    if not changes:
        return Measurement()
    return large_change(
        min(changes),
        "velocities do not depend on the number of visible stages; let stages see each other, embed the index",
    )


@law("backbone")
def depends_on_label(backbone: Backbone, seed: int = 0) -> Measurement:
    """Each label, and having none, gives velocities of its own; no label at all means the null label."""
    network, generator = prepared(backbone, seed, "label")
    classes = backbone.facts.num_classes
    if not classes:
        return Measurement()
    example = example_for(network, prefixes(num_stages(network))[-1:], generator)
    unlabelled = replace(example, label=None).velocities(network)
    # All of them, of many some over the whole range; the last one means none.
    tried = min(classes, MOST_LABELS)
    labels = sorted({classes - 1, *(classes * index // tried for index in range(tried + 1))})
    outputs = {
        label: replace(example, label=torch.full_like(example.t[:, 0], label, dtype=torch.int64)).velocities(network)
        for label in labels
    }
    if relative_change(unlabelled, outputs[classes]) > NOTICEABLE:
        raise LawBroken(f"label None and the null label {classes} give different velocities; treat them alike")
    changes = {(a, b): relative_change(outputs[a], outputs[b]) for a, b in itertools.combinations(labels, 2)}
    alike = min(changes, key=changes.__getitem__)
    what = f"labels {alike[0]} and {alike[1]} (of {classes}, which is none) give the same velocities"
    return large_change(changes[alike], f"{what}; embed conditioning.label")


def _over(mask: Tensor, stage: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (stage.ndim - 1))
