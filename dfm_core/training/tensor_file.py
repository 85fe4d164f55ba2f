"""A safetensors file written in pieces and hashed on the way: other threads run meanwhile, and it can be broken off."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dfm_core.errors import CheckpointError

PIECE = 1 << 22
"""Bytes between two calls of `check`."""
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], check: Callable[[], None] = lambda: None
) -> dict[str, object]:
    """Write a safetensors file, wait until it is on the disk, and return its size and SHA-256.

    tensors: on any device, strided in any way; what shares memory is written twice. check is called between pieces, and
    what it raises ends the writing. Raises OSError, and CheckpointError for a type of number that the format lacks.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))  # so all of them are aligned
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as stream:
        for piece in _pieces(ordered):
            check()
            stream.write(piece)
            digest.update(piece)
            size += len(piece)
        stream.flush()
        os.fsync(stream.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    yield _header(tensors)
    for tensor in tensors.values():
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        content = plain.numpy().data
        for start in range(0, len(content), PIECE):
            yield content[start : start + PIECE]


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Length of the rest in 8 bytes, then JSON: type, shape and place of every tensor."""
    entries, end = {}, 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise CheckpointError(f"{name} is of {tensor.dtype}, which no checkpoint can hold; convert it")
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
