"""The processes that train one model together: which of them this is, and how they agree. Alone, it costs nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dfm_core.errors import DeviceError, LostProcessError, WorldError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


LONGEST_STEP = timedelta(minutes=30)
"""How long processes wait for each other's gradients: the first may be writing a checkpoint."""
LONGEST_SILENCE = timedelta(days=1)
"""How long they wait for a message, as after very unequal work. One that ends is noticed at once, whatever it says."""


@dataclass(frozen=True)
class World:
    """This process among those that train together; by default the only one.

    index: from 0; the first alone writes files and speaks. size: how many they are. device: of this process. control:
    gloo group for messages between the CPUs, beside the one that averages gradients; None for a single process.
    """

    index: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.index == 0

    def part(self, batch_size: int) -> tuple[int, int]:
        """Range (start, stop) of the global batch that is this process's. Raises WorldError for unequal parts."""
        if batch_size % self.size:
            below, above = batch_size // self.size * self.size, -(-batch_size // self.size) * self.size
            near = f"{below} or {above}" if below else str(above)
            dividing = ", ".join(str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)
            raise WorldError(
                f"a batch of {batch_size} cannot be split evenly over {self.size} processes: use a --batch-size of "
                f"{near} (training.batch_size), or {dividing} processes"
            )
        return batch_size * self.index // self.size, batch_size * (self.index + 1) // self.size

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, by index. value: JSON types; all processes must call."""
        if self.control is None:
            return [value]
        import torch.distributed as dist

        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(data)]), group=self.control)
        longest = int(torch.stack(lengths).max())
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(parts, torch.nn.functional.pad(data, (0, longest - len(data))), group=self.control)
        return [json.loads(part[: int(length)].numpy().tobytes()) for part, length in zip(parts, lengths, strict=True)]

    def once(self, make: Callable[[], Any]) -> Any:
        """Let the first process make a value (JSON types), and return it in all of them."""
        return self.gather(make() if self.is_first else None)[0]

    def total(self, values: Tensor) -> Tensor:
        """Sum of every process's values, a tensor on the CPU; all processes must call."""
        if self.control is None:
            return values
        import torch.distributed as dist

        result = values.clone()
        dist.all_reduce(result, group=self.control)
        return result

    def ask(self, wish: Callable[[], bool]) -> Callable[[], bool]:
        """Ask whether any process wishes something, without waiting; the returned function waits for the answer.

        Alone, the answer is the wish of the moment in which it is read.
        """
        if self.control is None:
            return wish
        import torch.distributed as dist

        flag = torch.tensor([int(wish())])
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.control, async_op=True)

        def answer() -> bool:
            work.wait()
            return bool(flag)

        return answer


@contextmanager
def joined_world(device: torch.device, environment: Mapping[str, str] = os.environ) -> Iterator[World]:
    """Join the processes that torchrun (or `dfm train --nproc`) started; without them, a world of one.

    device: as asked for; with several processes, `cuda` becomes the GPU of each one's local number. Leaves together:
    what the first process has written is there when any of them goes on. Raises WorldError and DeviceError for what
    cannot work, LostProcessError when another process ends on the way.
    """
    size = _number(environment, "WORLD_SIZE") if "WORLD_SIZE" in environment else 1
    if size == 1:
        yield World(device=device)
        return
    index = _number(environment, "RANK")
    device = own_device(device, environment)
    import torch.distributed as dist

    backend = _backend(device)
    with lost_processes_named():
        dist.init_process_group(backend, timeout=LONGEST_STEP, device_id=device if device.type == "cuda" else None)
        world = World(index, size, device, dist.new_group(backend="gloo", timeout=LONGEST_SILENCE))
        yield world
        with suppress(RuntimeError):  # a process that failed at the very end has said so itself
            world.gather(None)
    dist.destroy_process_group()


def check_same(world: World, values: Mapping[str, object]) -> None:
    """Raise WorldError, in all processes alike, if they hold different values; names process and keys."""
    own = {key: json.dumps(value, default=str) for key, value in values.items()}
    everywhere = world.gather(own)
    lines = [
        f"process {index} has {key} = {other.get(key, 'nothing')}, process 0 has {everywhere[0].get(key, 'nothing')}"
        for index, other in enumerate(everywhere)
        for key in sorted({*everywhere[0], *other})
        if other.get(key) != everywhere[0].get(key)
    ]
    if lines:
        advice = "all processes of a run need the same command, files and versions"
        raise WorldError("\n".join([*lines, advice]))


@contextmanager
def lost_processes_named(when: str = "", advice: str = "") -> Iterator[None]:
    """Turn the errors with which the backends report a vanished process into LostProcessError.

    when: what this one was at ("while it trained"), where that is known. advice: how to go on.
    """
    try:
        yield
    except RuntimeError as error:
        if not _reports_a_lost_process(error):
            raise
        # "[file:line] What happened. What may be the matter."
        reason = re.sub(r"^\[\S+\] ", "", str(error).strip().splitlines()[0]).split(". ")[0]
        ended = " ".join(filter(None, ["another process of this run ended", when, f"({reason})"]))
        raise LostProcessError("; ".join(filter(None, [ended, advice]))) from error


def _reports_a_lost_process(error: RuntimeError) -> bool:
    import torch.distributed as dist

    return dist.is_available() and (isinstance(error, dist.DistError) or "gloo" in str(error))


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except (KeyError, ValueError) as error:
        raise WorldError(
            f"expected a number in the variable {name}, got {environment.get(name)!r}: start processes with "
            "`dfm train --nproc N` or torchrun, or unset WORLD_SIZE"
        ) from error


def own_device(device: torch.device, environment: Mapping[str, str] = os.environ) -> torch.device:
    """The device of this process, one of several on this machine: for CUDA, the GPU of its local number.

    Raises WorldError and DeviceError for what cannot work.
    """
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise WorldError(f"several processes train on cpu or cuda, got {device}; use --device cpu, or one process")
    if device.index is not None:
        raise WorldError(f"with several processes each takes a GPU of its own: use --device cuda, got {device}")
    local_size = _number(environment, "LOCAL_WORLD_SIZE")
    if local_size > torch.cuda.device_count():
        raise DeviceError(
            f"{local_size} processes on this machine need as many CUDA devices, it has {torch.cuda.device_count()}: "
            "start fewer (--nproc)"
        )
    own = torch.device("cuda", _number(environment, "LOCAL_RANK"))
    torch.cuda.set_device(own)
    return own


def _backend(device: torch.device) -> str:
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        raise WorldError("several processes need a torch with torch.distributed and gloo; this one has not: use one")
    if device.type == "cuda" and not dist.is_nccl_available():
        raise WorldError("several processes on CUDA need a torch with NCCL; this one has not: use --device cpu, or one")
    return "nccl" if device.type == "cuda" else "gloo"
