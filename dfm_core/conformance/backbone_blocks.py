"""The law of the blocks that a backbone names: where weights are sharded, a block is gathered when it is called."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import nn

from dfm_core.conformance.backbone_examples import Example, example_for, num_stages, prefixes, prepared
from dfm_core.conformance.law import LawBroken, Measurement, law
from dfm_core.interfaces.backbone import Backbone


@law("backbone")
def runs_each_block_once(backbone: Backbone, seed: int = 0) -> Measurement:
    """Whatever is visible, a forward calls each module of `shardable_blocks` once, as `block(...)`, in that order."""
    network, generator = prepared(backbone, seed, "blocks")
    blocks = network.shardable_blocks()
    names = {module: name for name, module in network.named_modules()}
    foreign = [type(block).__name__ for block in blocks if block not in names]
    if foreign:
        raise LawBroken(f"{len(foreign)} blocks are no submodules ({foreign[0]}); name modules that belong to self")
    expected = {block: names[block] for block in blocks}
    if len(expected) < len(blocks):
        raise LawBroken(f"{len(blocks)} blocks are named, but {len(expected)} different ones; name each once")
    masks = list(itertools.product((True, False), repeat=num_stages(network)))[:-1]
    alike = [torch.tensor([mask, mask]) for mask in masks[:32]] if blocks else []
    for visible, training in itertools.product([*alike, prefixes(num_stages(network))], (False, True)):
        called = _called(network.train(training), expected, example_for(network, visible, generator))
        if called != list(expected.values()):
            raise LawBroken(
                f"with stages visible as in {visible.int().tolist()}{' in training' * training}: expected calls of "
                f"{_listed(list(expected.values()))}, got {_listed(called)}; run the same blocks whatever is visible, "
                "each once, as block(...), and name them in their order"
            )
    return Measurement()


def _called(network: Backbone, names: Mapping[nn.Module, str], example: Example) -> list[str]:
    """Names of the blocks that a forward pass calls, in that order; the global random state stays as it was."""
    called: list[str] = []

    def note(block: nn.Module, _: object) -> None:
        called.append(names[block])

    hooks = [block.register_forward_pre_hook(note) for block in names]
    with torch.random.fork_rng(devices=[]):
        example.velocities(network)
    for hook in hooks:
        hook.remove()
    return called


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:4]) or "none"
    return shown if len(names) <= 4 else f"{shown}, … ({len(names)})"
