"""How processes share a network: a whole copy in each (DDP) or a shard in each (FSDP2); in place, so no name changes.

A sharded tensor is one that has `full_tensor`, a DTensor split along its first axis; a process alone has none, and
imports nothing of this.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dfm_core.config.settings import TrainingSettings
from dfm_core.errors import WorldError
from dfm_core.training.activations import recompute_activations
from dfm_core.training.distributed import World


class Sharing:
    """What a step must do about the other processes. This base is a process alone: nothing."""

    def micro_batch(self, step: int, is_last: bool) -> AbstractContextManager[object]:
        """Around forward and backward of a micro-batch of step `step`; after the last, gradients are averaged."""
        return nullcontext()

    def after_forward(self, step: int) -> None:
        """Raise WorldError, in all processes alike, if the backward pass of a micro-batch could not work."""

    def settle(self) -> None:
        """Let go of what a forward pass without backward has gathered; before weights are changed."""

    def check(self) -> None:
        """Raise WorldError, in all processes alike, if their gradients since the last check cannot be right."""


class Replicated(Sharing):
    """DistributedDataParallel around the forward of `module`; layers that only some processes run are averaged too."""

    def __init__(self, module: nn.Module) -> None:
        # Finds what a process did not run in this step; and without it, buckets change after the first step, so that
        # a resumed run would add in another order.
        self._ddp = nn.parallel.DistributedDataParallel(
            _Forward(module), find_unused_parameters=True, gradient_as_bucket_view=True
        )
        ddp = self._ddp
        module.forward = lambda *inputs, **options: ddp(*inputs, **options)

    def micro_batch(self, step: int, is_last: bool) -> AbstractContextManager[object]:
        return nullcontext() if is_last else self._ddp.no_sync()


class _Forward(nn.Module):
    """The forward of a module as it is now, for a wrapper that takes a module and calls it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._call = module.forward
        # DistributedDataParallel warns, in every process, where it looks for unused parameters and finds none.
        self.unused = nn.Parameter(torch.zeros((), device=next(module.parameters()).device))

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self._call(*inputs, **options)


class Sharded(Sharing):
    """FSDP2: `blocks` and then the rest of `module` are gathered when they run, and sharded otherwise.

    FSDP2 adds up the gradients of one unit as one row of numbers. A process that leaves out a layer has a shorter row,
    and numbers of different parameters are added without any error; so who left out what is noted and compared. Rows of
    different lengths end a process at once; so where samples may go different ways (`splits_batch`), what ran is
    compared before.

    gathered_as: type in which the weights of blocks travel (None: as they are stored), that of autocast. Gradients
    travel and are added in float32.
    """

    def __init__(
        self, module: nn.Module, blocks: Sequence[nn.Module], world: World, gathered_as: torch.dtype | None = None
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        # The velocities may be views of the last layer's output; nothing changes them in place.
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(.*\) returned a view tensor")
        mesh = init_device_mesh(world.device.type, (world.size,))
        # Autocast would convert the weights of each product all the same: so half as much is sent.
        narrow = MixedPrecisionPolicy(gathered_as, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=narrow if gathered_as else MixedPrecisionPolicy())
        fully_shard(module, mesh=mesh)
        self._units = [unit for unit in module.modules() if isinstance(unit, FSDPModule)]
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._world = world
        self._left_out: dict[int, list[list[str]]] = {}
        self._ran: set[str] = set()
        self._may_differ = bool(getattr(module, "splits_batch", False))
        if self._may_differ:
            self._note_what_runs(module)

    def _note_what_runs(self, module: nn.Module) -> None:
        for name, part in module.named_modules():
            if any(True for _ in part.parameters(recurse=False)):
                part.register_forward_hook(lambda *_, name=name: self._ran.add(name))

    @contextmanager
    def micro_batch(self, step: int, is_last: bool) -> Iterator[None]:
        # Set aside, since a gradient that is there already does not show whether this micro-batch gave one.
        before = [(parameter, parameter.grad) for parameter in self._parameters.values()]
        for parameter, _ in before:
            parameter.grad = None
        self._ran.clear()
        yield
        left_out = [name for name, parameter in self._parameters.items() if parameter.grad is None]
        if left_out:
            self._left_out.setdefault(step, []).append(left_out)
        for parameter, gradient in before:
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def after_forward(self, step: int) -> None:
        if not self._may_differ:
            return
        reference, *others = self._world.gather(sorted(self._ran))
        for index, ran in enumerate(others, 1):
            if ran != reference:
                raise WorldError(_different_layers(step, index, [ran], [reference]))

    def settle(self) -> None:
        for unit in self._units:
            unit.reshard()

    def check(self) -> None:
        everywhere = self._world.gather(list(self._left_out.items()))
        self._left_out = {}
        reference = dict(everywhere[0])
        for index, items in enumerate(everywhere):
            other = dict(items)
            for step in sorted({*reference, *other}):
                if reference.get(step) != other.get(step):
                    raise WorldError(_different_layers(step, index, other.get(step, []), reference.get(step, [])))


def _different_layers(step: int, index: int, other: list[list[str]], reference: list[list[str]]) -> str:
    names = sorted({name for part in other for name in part} ^ {name for part in reference for name in part})
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"at step {step + 1} process {index} and process 0 ran different layers ({shown}), and FSDP mixes up the "
        "gradients where that happens: use --parallel ddp, or a network that runs the layers of all stages whatever "
        "is visible (it can select with torch.where)"
    )


def share(
    module: nn.Module,
    blocks: Sequence[nn.Module],
    settings: TrainingSettings,
    world: World,
    autocast_dtype: torch.dtype | None = None,
) -> Sharing:
    """Prepare `module` in place for training: activation checkpointing, compilation, the other processes.

    blocks: its repeated parts, the units of all three. autocast_dtype: that of every forward pass, None for none.
    Optimiser and averages are made after this.
    """
    recompute_activations(blocks, settings.checkpointing)
    if settings.compile:
        _compile(module, blocks, world)
    if world.size == 1:
        return Sharing()
    return Sharded(module, blocks, world, autocast_dtype) if settings.parallel == "fsdp" else Replicated(module)


def _compile(module: nn.Module, blocks: Sequence[nn.Module], world: World) -> None:
    if world.size == 1:
        module.compile()
        return
    # Not the hooks that gather weights and send gradients: those run between the compiled parts.
    for part in blocks or [module]:
        part.forward = torch.compile(part.forward)


def messages(blocks: Sequence[nn.Module], settings: TrainingSettings, world: World) -> list[str]:
    """What must be said of a network that names no blocks."""
    if blocks:
        return []
    unnamed = "the backbone names no blocks (shardable_blocks)"
    said = []
    if settings.parallel == "fsdp" and world.size > 1:
        said.append(f"{unnamed}: FSDP shards the whole network as one unit, and each step gathers all of it at once")
    if settings.checkpointing != "none":
        said.append(f"{unnamed}: training.checkpointing={settings.checkpointing} has no effect")
    return said


def whole(tensor: Tensor) -> Tensor:
    """The full value of a tensor that may be sharded; where it is, all processes must call."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def gathered(tensors: Mapping[str, Tensor], world: World, keep: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """Full values of tensors that may be sharded, in the first process; elsewhere nothing.

    keep: puts the value of a sharded one, by its name, where it can stay, and returns it there; all others stay what
    they are. All processes must call. One tensor after the other, so that a device never holds more than one.
    """
    result = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if world.is_first:
            result[name] = full if full is tensor else keep(name, full)
    return result


def sharded_like(full: Tensor, target: Tensor) -> Tensor:
    """Shard `full` as `target` is; a plain target, or one of another shape, leaves it as it is."""
    if not hasattr(target, "full_tensor"):
        return full
    from torch.distributed.tensor import DTensor

    if not isinstance(target, DTensor) or full.shape != target.shape:
        return full
    rows = -(-len(full) // target.device_mesh.size())
    first = rows * target.device_mesh.get_local_rank()
    local = full[first : first + rows].to(target.device)
    return DTensor.from_local(
        local, target.device_mesh, target.placements, run_check=False, shape=full.shape, stride=full.stride()
    )
