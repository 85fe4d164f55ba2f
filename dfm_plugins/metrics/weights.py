"""Networks from files of the user's: state dicts and folders of transformers, named by their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfm_core.errors import ConfigError, PluginError
from dfm_plugins.pretrained_models import load_from_folder

_PIECE = 1 << 22


def file_digest(path: Path) -> str:
    """Return the first 16 digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()[:16]


def read_state(path: Path, metric: str) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from a .pth of tensors only, on the CPU. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"{metric}.path: expected a file of weights, {path} is none (nothing is downloaded)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # weights_only: a pickle of tensors can run no code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"{metric}.path: {path} cannot be read as a state dict of tensors: {str(error).partition(chr(10))[0]}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{metric}.path: {path} holds no state dict; expected names and tensors")
    return dict(state)


def load_state(network: torch.nn.Module, path: Path, metric: str) -> None:
    """Load weights from a file into a network. Raises ConfigError where they are those of another."""
    try:
        network.load_state_dict(read_state(path, metric))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{metric}.path: the weights in {path} are not those of this network: {reason}") from error


def load_pretrained(folder: Path, class_name: str, metric: str) -> Any:
    """Load a model of transformers from a folder on this machine, in float32. Raises ConfigError, PluginError."""
    check_folder(folder, metric)
    library = transformers_library(metric)
    with _without_progress(library):
        model = load_from_folder(getattr(library, class_name), folder, f"{metric}.path")
    return model.eval().requires_grad_(False)


@contextmanager
def _without_progress(library: Any) -> Iterator[None]:
    """No progress bars of the library's."""
    log = library.utils.logging
    shown = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            log.enable_progress_bar()


def check_folder(folder: Path, metric: str) -> None:
    """Raise ConfigError unless a folder looks like a saved model with weights as safetensors."""
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{metric}.path: expected a folder with config.json and weights as transformers saves them, got {folder} "
            "(nothing is downloaded)"
        )
    if not list(folder.glob("*.safetensors")):
        raise ConfigError(f"{metric}.path: {folder} has no weights; expected model.safetensors")


def transformers_library(metric: str) -> Any:
    """Import transformers. Raises PluginError where it is missing."""
    try:
        import transformers
    except ImportError as error:
        raise PluginError(
            f"metric {metric!r} needs transformers: pip install 'decomposable-flow-matching[eval]' ({error})"
        ) from error
    return transformers


def folder_variant(folder: Path, network: str, config: Any) -> dict[str, str | int | float]:
    """What tells a vision transformer from others: name, depth, patches; its folder, and a digest over its weights.

    config: of transformers, of the part that sees images.
    """
    digests = "".join(file_digest(path) for path in sorted(folder.glob("*.safetensors")))
    return {
        "network": network,
        "width": int(config.hidden_size),
        "layers": int(config.num_hidden_layers),
        "patch": int(config.patch_size),
        "file": folder.name,
        "digest": hashlib.sha256(digests.encode()).hexdigest()[:16],
    }
