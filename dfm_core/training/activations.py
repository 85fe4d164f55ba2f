"""Activation checkpointing: blocks compute their activations again in the backward pass, in place of keeping them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

_KEPT = (
    *("mm", "addmm", "bmm", "baddbmm", "convolution"),
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
"""Operations whose results `selective` keeps: they take most of the time, and less memory than all the rest."""


def recompute_activations(blocks: Sequence[nn.Module], mode: Literal["none", "selective", "full"]) -> None:
    """Make blocks keep their inputs only (`full`), or also results of matrix products and attention (`selective`).

    In place, by an own `forward` of each block, so no name in a state dict changes.
    """
    if mode == "none":
        return
    options: dict[str, Any] = {}
    if mode == "selective":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, kept_operations())
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, **options)


def kept_operations() -> list[torch._ops.OpOverload]:
    """The operations whose results `selective` keeps, as far as this torch has them."""
    packets = (getattr(torch.ops.aten, name, None) for name in _KEPT)
    return [packet.default for packet in packets if packet is not None]
