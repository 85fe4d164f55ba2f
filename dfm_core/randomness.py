"""Random state derived from (seed, purpose, …): nothing to save, nothing global, the same bits after every resume."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every element of `purpose`, and on nothing else."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def derive_generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator on `device`, seeded by `derive_seed(seed, *purpose)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))
