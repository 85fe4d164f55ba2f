"""Random state derived from (seed, purpose, …): nothing to save, nothing global, the same bits after every resume."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every element of `purpose`, and on nothing else."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def derive_generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator on `device`, seeded by `derive_seed(seed, *purpose)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


@dataclass(frozen=True)
class BatchRandomness:
    """The randomness of samples start…stop−1 of one step's global batch of `total` samples.

    seed: of the run. step: from 0. A micro-batch of an accumulation, or the part of one process, is such a range.
    """

    seed: int
    step: int
    start: int
    stop: int
    total: int

    def first(self, rows: int) -> BatchRandomness:
        """That of the first `rows` of these samples, which is theirs in any part that begins with them."""
        return replace(self, stop=self.start + rows)

    def shared(self, purpose: str) -> torch.Generator:
        """CPU generator that is the same for every part of the step: draw for `total` samples, then take `part`."""
        return derive_generator(self.seed, purpose, self.step)

    def part(self, drawn: torch.Tensor) -> torch.Tensor:
        """Rows start…stop−1 of a tensor drawn for the global batch: shapes (total, ...) → (stop − start, ...)."""
        return drawn[self.start : self.stop]

    def own(self, purpose: str, device: torch.device | str) -> torch.Generator:
        """Generator on `device` for this part only (noise)."""
        return derive_generator(self.seed, purpose, self.step, self.start, device=device)
