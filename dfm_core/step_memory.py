"""FLOPs of a training step and what autograd keeps of it, by precision and checkpointing, on the meta device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from dfm_core.interfaces.backbone import Backbone
from dfm_core.network_facts import MetaBatch, mean_square
from dfm_core.training.activations import kept_operations

Checkpointing = Literal["none", "selective", "full"]

_LOWERED = frozenset(
    [
        *(F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
        *(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
        *(Tensor.mm, Tensor.bmm, torch.einsum, F.scaled_dot_product_attention),
    ]
)
"""What autocast computes in the lower precision, as far as networks use it."""


def measure_step(
    backbone: Backbone,
    arguments: MetaBatch,
    checkpointing: Checkpointing = "none",
    dtype: torch.dtype | None = None,
) -> tuple[int, int]:
    """FLOPs of forward and backward, and bytes of activations at their most, of a network on the meta device.

    What is computed again under activation checkpointing is counted in the bytes (of the block with the most), not in
    the FLOPs, which are the network's own. dtype: of autocast, None for none. Changes the backbone's blocks: use it for
    nothing else.
    """
    kept = _Kept(checkpointing, {p.untyped_storage()._cdata for p in backbone.parameters()})
    if checkpointing != "none":
        kept.watch(backbone.shardable_blocks())
    lowered = nullcontext() if dtype is None else _Autocast(dtype, kept)
    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(kept.keep, lambda tensor: tensor), _FusedAttention(kept), lowered:
            velocities = backbone(*arguments)
        mean_square(velocities).backward()
    return int(counter.get_total_flops()), kept.most_bytes


class _Kept:
    """Bytes of the storages that are kept for the backward pass, those of weights aside.

    Of a watched block its inputs are kept, and in `selective` the results of some operations; the rest is there only
    while the block is computed again, so the largest such rest counts.
    """

    def __init__(self, checkpointing: Checkpointing, weights: set[int]) -> None:
        self._selective = checkpointing == "selective"
        self._weights = weights
        self._always: dict[int, int] = {}
        self._again: dict[int, int] | None = None
        self._most_again = 0
        self._alive: list[Tensor] = []
        self.in_attention = False

    @property
    def most_bytes(self) -> int:
        """Bytes when the backward pass is in the block that needs most."""
        return sum(self._always.values()) + self._most_again

    def keep(self, tensor: Tensor) -> Tensor:
        """Note what autograd keeps: for good, or inside a watched block until the block is left."""
        return self._note(tensor, self._always if self._again is None else self._again)

    def keep_always(self, tensor: Tensor) -> Tensor:
        """Note what is there during the whole backward pass."""
        return self._note(tensor, self._always)

    def keep_result(self, tensor: Tensor) -> Tensor:
        """Note the result of a matrix product or of attention."""
        return self.keep_always(tensor) if self._selective and self._again is not None else tensor

    def watch(self, blocks: Sequence[nn.Module]) -> None:
        """Count blocks as those whose activations are computed again."""
        for block in blocks:
            block.forward = functools.partial(self._run, block.forward)

    def _run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self.keep_always(value)
        self._again = {}
        with _Results(self) if self._selective else nullcontext():
            output = forward(*args, **kwargs)
        again = sum(size for key, size in self._again.items() if key not in self._always)
        self._most_again = max(self._most_again, again)
        self._again = None
        return output

    def _note(self, tensor: Tensor, sizes: dict[int, int]) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            sizes[storage._cdata] = storage.nbytes()
            self._alive.append(tensor)  # else another storage may get its address
        return tensor


class _Results(TorchDispatchMode):
    """Note the results that `selective` keeps."""

    def __init__(self, kept: _Kept) -> None:
        super().__init__()
        self._kept, self._operations = kept, kept_operations()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in self._operations and not self._kept.in_attention:
            tree_map(lambda value: self._kept.keep_result(value) if isinstance(value, Tensor) else value, output)
        return output


class _FusedAttention(TorchFunctionMode):
    """Keep of attention what the fused kernels keep: its inputs, its output and one number a row.

    On the meta device torch takes the plain way, which keeps the weights of all pairs of tokens.
    """

    def __init__(self, kept: _Kept) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._kept.in_attention = True
        with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
            output = func(*args, **(kwargs or {}))
        self._kept.in_attention = False
        inputs = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        rows = output.detach().new_empty(output.shape[:-1], dtype=torch.float32)
        for tensor in (*inputs, output, rows):
            self._kept.keep(tensor)
        for tensor in (output, rows):
            self._kept.keep_result(tensor)
        return output


class _Autocast(TorchFunctionMode):
    """What `torch.autocast` does to the products, for the meta device, which has no autocast of its own.

    The copy of a weight is made once and kept for the backward pass, as its cache does.
    """

    def __init__(self, dtype: torch.dtype, kept: _Kept) -> None:
        super().__init__()
        self._dtype, self._kept = dtype, kept
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _LOWERED:
            args, kwargs = tree_map(self._lower, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _lower(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self._dtype)
        if id(value) not in self._weights:
            self._weights[id(value)] = self._kept.keep_always(value.to(self._dtype))
        return self._weights[id(value)]
