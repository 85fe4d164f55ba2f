"""Pretrained autoencoders of the diffusers library, from a folder on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from dfm_core.errors import CompositionError, ConfigError, PluginError
from dfm_core.interfaces.autoencoder import Autoencoder, AutoencoderFacts, state_digest
from dfm_plugins.autoencoders.specs import DiffusersOptions
from dfm_plugins.pretrained_models import load_from_folder

Config = Mapping[str, Any]
"""A model's config.json."""

_OPTION = "autoencoder.options.path"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class Family:
    """What the classes of the library call their facts.

    temporal: takes (B, C, T, H, W), an image is one frame; else the frames of a clip are images. odd: it decodes the
    first latent to one frame only where their number is odd.
    """

    temporal: bool
    downsample_factor: Callable[[Config], int]
    channels: Callable[[Config], int]
    data_channels: Callable[[Config], int]
    temporal_downsample_factor: Callable[[Config], int] = lambda config: 1
    odd: bool = False


def _patch(config: Config) -> int:
    return config.get("patch_size") or 1


_BY_BLOCKS: dict[str, Any] = {
    "downsample_factor": lambda config: 2 ** (len(config["block_out_channels"]) - 1),
    "channels": lambda config: config["latent_channels"],
    "data_channels": lambda config: config["in_channels"],
}
FAMILIES = {
    "AutoencoderKL": Family(temporal=False, **_BY_BLOCKS),
    "AutoencoderKLCogVideoX": Family(
        temporal=True,
        temporal_downsample_factor=lambda config: config["temporal_compression_ratio"],
        odd=True,
        **_BY_BLOCKS,
    ),
    "AutoencoderKLWan": Family(
        temporal=True,
        downsample_factor=lambda config: 2 ** (len(config["dim_mult"]) - 1) * _patch(config),
        temporal_downsample_factor=lambda config: 2 ** sum(config["temperal_downsample"]),
        channels=lambda config: config["z_dim"],
        data_channels=lambda config: config["in_channels"] // _patch(config) ** 2,
    ),
}


class Pretrained(Autoencoder):
    """A frozen model of FAMILIES; latents are (mean − shift) · scale, as the models that were trained on them see them.

    Raises ConfigError for a folder that cannot be used, CompositionError for data of other channels than the model's.
    """

    options: DiffusersOptions
    shift: Tensor
    scale: Tensor

    def __init__(self, options: DiffusersOptions, facts: AutoencoderFacts) -> None:
        super().__init__(options, facts)
        folder = Path(options.path)
        saved = read_config(folder)
        self._class = saved["_class_name"]
        model = load_model(folder, self._class)
        self._config = dict(model.config)
        self._check_data(facts.data_channels)
        shift, scale = normalisation(self._config, self.channels, folder)
        # Before the cast, and from the file: neither precision nor a newer library's defaults change the latent space.
        known = {name: value for name, value in saved.items() if not name.startswith("_")}
        self._digest = state_digest(model.state_dict(), json.dumps(known, sort_keys=True))
        if options.slicing:
            model.enable_slicing()
        if options.tiling:
            model.enable_tiling()
        self.model = nn.Module.to(model, getattr(torch, options.precision))
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.eval().requires_grad_(False)

    def _check_data(self, data_channels: int) -> None:
        expected = self._family.data_channels(self._config)
        if data_channels != expected:
            raise CompositionError(
                f"the autoencoder in {self.options.path} takes images of {expected} channels, the data has "
                f"{data_channels}; use data of {expected} channels or another autoencoder"
            )

    @property
    def _family(self) -> Family:
        return FAMILIES[self._class]

    @property
    def downsample_factor(self) -> int:
        """2 for every halving of the model, times its patches."""
        return self._family.downsample_factor(self._config)

    @property
    def temporal_downsample_factor(self) -> int:
        """4 for CogVideoX and Wan; 1 for models of images, which take every frame on its own."""
        return self._family.temporal_downsample_factor(self._config)

    @property
    def channels(self) -> int:
        """Channels of the model's latents: 4 (Stable Diffusion), 16 (FLUX, CogVideoX, Wan)."""
        return self._family.channels(self._config)

    @property
    def stochastic(self) -> bool:
        """Whether the option `posterior` is "sample"."""
        return self.options.posterior == "sample"

    @cached_property
    def key(self) -> str:
        """The model's class, and a hash of its config and weights (not of the options, which leave the space as is)."""
        return f"{self._class}-{self._digest}"

    def encode(self, images: Tensor) -> Tensor:
        """The mean of the posterior, shifted and scaled: (B, C, H, W) in [-1, 1] -> (B, channels, H/f, W/f).

        Clips (B, C, T, H, W) -> (B, channels, 1 + (T−1)/k, H/f, W/f).
        """
        return self._normalised(self._posterior(images).mode(), images)

    def draw(self, images: Tensor, noise: Tensor) -> Tensor:
        """A draw from the posterior, shifted and scaled. noise: of the shape of the latents."""
        posterior = self._posterior(images)
        spread = posterior.std * self._to_model(noise.to(posterior.std.dtype))
        return self._normalised(posterior.mode() + spread, images)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, channels, H/f, W/f) -> (B, C, H, W); (B, channels, t, H/f, W/f) -> (B, C, 1 + k·(t−1), H, W)."""
        values = self._to_model(latents)
        values = values / _along_channels(self.scale, values) + _along_channels(self.shift, values)
        if not self._family.temporal:
            return self._from_model(self.model.decode(values.to(self.model.dtype)).sample, latents)
        frames = 1 + self.temporal_downsample_factor * (values.shape[2] - 1)
        if self._family.odd and values.shape[2] > 1 and values.shape[2] % 2 == 0:
            # Time is causal: what is added at the end leaves the frames before it.
            values = torch.cat([values, values[:, :, -1:]], dim=2)
        decoded = self.model.decode(values.to(self.model.dtype)).sample
        return self._from_model(decoded[:, :, :frames], latents)

    def _posterior(self, images: Tensor) -> Any:
        return self.model.encode(self._to_model(images.to(self.model.dtype))).latent_dist

    def _normalised(self, values: Tensor, images: Tensor) -> Tensor:
        values = (values - _along_channels(self.shift, values)) * _along_channels(self.scale, values)
        return self._from_model(values, images)

    def _to_model(self, x: Tensor) -> Tensor:
        """Images or clips in the form that the model takes."""
        if self._family.temporal:
            return x.unsqueeze(2) if x.ndim == 4 else x
        return rearrange(x, "b c t h w -> (b t) c h w") if x.ndim == 5 else x

    def _from_model(self, x: Tensor, given: Tensor) -> Tensor:
        """What the model made of `given`, which were images or clips, in its form and type."""
        if self._family.temporal:
            x = x.squeeze(2) if given.ndim == 4 else x
        elif given.ndim == 5:
            x = rearrange(x, "(b t) c h w -> b c t h w", b=len(given))
        return x.to(given.dtype)


def _along_channels(values: Tensor, x: Tensor) -> Tensor:
    """Give values, one or one a channel, the dimensions of x (B, C, …)."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a model's folder. Raises ConfigError unless it is one of FAMILIES."""
    expected = f"expected the folder of a model of {', '.join(FAMILIES)}, with its config.json and weights"
    if not folder.is_dir():
        raise ConfigError(f"{_OPTION}: {folder} is no folder; {expected} (nothing is downloaded)")
    if not (folder / "config.json").is_file():
        inner = folder / "vae"
        hint = f"; this looks like a pipeline: use {inner}" if (inner / "config.json").is_file() else ""
        raise ConfigError(f"{_OPTION}: {folder} has no config.json; {expected}{hint}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{_OPTION}: cannot read {folder / 'config.json'}: {error}; {expected}") from error
    found = config.get("_class_name") if isinstance(config, dict) else None
    if found not in FAMILIES:
        raise ConfigError(f"{_OPTION}: {folder} holds a model of class {found!r}; supported: {', '.join(FAMILIES)}")
    return dict(config)


def load_model(folder: Path, class_name: str) -> Any:
    """Load a model in float32 from safetensors. Raises ConfigError if weights are missing, pickled or do not fit."""
    check_weights(folder)
    try:
        import diffusers
    except ImportError as error:
        raise PluginError(
            "autoencoder 'diffusers' needs the library of that name: "
            f"pip install 'decomposable-flow-matching[hub]' ({error})"
        ) from error
    return load_from_folder(getattr(diffusers, class_name), folder, _OPTION)


def check_weights(folder: Path) -> None:
    """Raise ConfigError unless a folder has weights in safetensors: pickles can run code."""
    names = sorted(path.name for path in folder.iterdir())
    if any(name.endswith(".safetensors") for name in names):
        return
    pickled = [name for name in names if name.endswith(_PICKLES)]
    if pickled:
        raise ConfigError(
            f"{_OPTION}: {folder} has its weights in {pickled[0]}, a pickle, which can run code when it is read; "
            "expected diffusion_pytorch_model.safetensors: save the model with save_pretrained(…)"
        )
    raise ConfigError(f"{_OPTION}: {folder} has no weights; expected diffusion_pytorch_model.safetensors")


def normalisation(config: Config, channels: int, folder: Path) -> tuple[Tensor, Tensor]:
    """Shift and scale of (z − shift) · scale, each (channels or 1), as the library's pipelines have them.

    scaling_factor and shift_factor are numbers; latents_mean and latents_std one each a channel. Raises ConfigError.
    """
    mean, std, shift = (config.get(name) for name in ("latents_mean", "latents_std", "shift_factor"))
    if (mean is None) != (std is None) or (mean is not None and shift is not None):
        raise ConfigError(
            f"{_OPTION}: the config in {folder} mixes ways to normalise latents; expected latents_mean and latents_std "
            "together, or shift_factor, or none"
        )
    if mean is not None and std is not None and not len(mean) == len(std) == channels:
        raise ConfigError(
            f"{_OPTION}: the config in {folder} has {len(mean)} latents_mean and {len(std)} latents_std, expected one "
            f"each for {channels} channels"
        )
    factor = config.get("scaling_factor") or 1.0
    offset, spread = (torch.tensor(x, dtype=torch.float32).reshape(-1) for x in (mean or shift or 0.0, std or 1))
    return offset, factor / spread
