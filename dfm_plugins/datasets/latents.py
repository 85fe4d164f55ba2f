"""Latents as files: .npy and .safetensors, read without trusting what their headers say."""

from __future__ import annotations

import math
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from dfm_core.errors import UnreadableSampleError

_TENSOR = "latent"


def read_latent(content: bytes, ending: str, shape: tuple[int, ...], name: str) -> Tensor:
    """Decode one latent: float32 of `shape`, finite.

    ending: says what it is. name: for messages. Raises UnreadableSampleError.
    """
    try:
        array = _safetensors(content) if ending.endswith("safetensors") else _npy(content)
    # Broken files make decoders raise anything.
    except Exception as error:
        raise UnreadableSampleError(f"cannot read latent {name}: {error or type(error).__name__}") from error
    if array.dtype not in (np.float16, np.float32) or array.shape != shape:
        raise UnreadableSampleError(
            f"cannot read latent {name}: expected float16 or float32 of shape {shape}, got {array.dtype} {array.shape}"
        )
    values = np.array(array, dtype=np.float32, order="C")
    if not np.isfinite(values).all():
        raise UnreadableSampleError(f"cannot read latent {name}: it holds values that are not finite")
    return torch.from_numpy(values)


def _npy(content: bytes) -> NDArray[np.generic]:
    start = 10 + int.from_bytes(content[8:10], "little")
    shape, by_columns, dtype = _header(content[:start])
    # Not read_array: it makes room for whatever the header asks for.
    if dtype.hasobject or dtype.itemsize * math.prod(shape) != len(content) - start:
        raise ValueError(f"its header promises {shape} of {dtype}, and {len(content) - start} bytes follow")
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if by_columns else "C")


@lru_cache(maxsize=64)  # the same for all latents, and half of the time of reading one
def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"expected version 1.0 of the format, got {version}")
    return np.lib.format.read_array_header_1_0(file)


def _safetensors(content: bytes) -> NDArray[np.generic]:
    tensors = safetensors.numpy.load(content)
    if len(tensors) != 1 and _TENSOR not in tensors:
        raise ValueError(f"expected one tensor, or one named {_TENSOR}, got {', '.join(sorted(tensors)[:5]) or 'none'}")
    return tensors[_TENSOR] if _TENSOR in tensors else next(iter(tensors.values()))
