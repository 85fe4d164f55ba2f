"""The folder of an evaluation's results, which is there before the work begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dfm_core.errors import UsageError
from dfm_core.evaluation.evaluation import Keep
from dfm_core.training.distributed import World


@contextmanager
def results_in(folder: Path, world: World) -> Iterator[Keep]:
    """Give the function that writes an evaluation into a new folder; all processes must call, the first one writes.

    The folder is made before the work begins, and goes again if nothing came of it. Raises UsageError if it exists, or
    cannot be made.
    """

    def make() -> None:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {folder}: {error.strerror}; choose another --output") from error

    beside = folder.parent.exists()
    world.once(make)
    try:
        yield lambda evaluation: evaluation.write(folder) if world.is_first else None
    finally:
        if world.is_first:
            with suppress(OSError):
                folder.rmdir()
                if not beside:
                    folder.parent.rmdir()
