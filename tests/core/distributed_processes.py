"""Start processes that train together, let each do some checks in turn, and gather what they tell."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from dfm_core.errors import DFMError
from dfm_core.training.distributed import World, joined_world

Check = Callable[[World, Path], Any]
"""What each process does, in a folder of this check, and what it tells: something that can be pickled."""


def run_in_processes(checks: Sequence[Check], folder: Path, size: int = 2) -> dict[str, list[Any]]:
    """Run checks in `size` processes on CPUs; return what each process told, by name of the check.

    DFMErrors are told; any other error fails.
    """
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    told = multiprocessing.get_context("spawn").SimpleQueue()
    processes = multiprocessing.spawn(_work, (size, port, checks, folder, told), nprocs=size, join=False)
    results: dict[str, list[Any]] = {check.__name__: [None] * size for check in checks}
    ended = False
    while not ended:
        ended = processes.join(timeout=0.1)
        while not told.empty():
            index, name, value = told.get()
            results[name][index] = value
    return results


def _work(index: int, size: int, port: int, checks: Sequence[Check], folder: Path, told: Any) -> None:
    torch.set_num_threads(1)
    place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    with joined_world(torch.device("cpu")) as world:
        for check in checks:
            try:
                told.put((index, check.__name__, check(world, folder / check.__name__)))
            except DFMError as error:
                told.put((index, check.__name__, error))
    # As `dfm` does, for the same reason: see end_without_finalization. What was told has left this process.
    os._exit(0)
