"""Tiny random models of the diffusers library, saved to disk as pretrained ones are; needs the extra `hub`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_BLOCKS = {"layers_per_block": 1, "norm_num_groups": 2}
_FLAT = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "stable_diffusion": ("AutoencoderKL", {**_BLOCKS, **_FLAT, "block_out_channels": (4, 4, 4), "latent_channels": 4}),
    "flux": (
        "AutoencoderKL",
        {
            **_BLOCKS,
            **_FLAT,
            **{"block_out_channels": (4, 4, 4), "latent_channels": 16, "scaling_factor": 0.3611},
            **{"shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False},
        },
    ),
    "cogvideox": (
        "AutoencoderKLCogVideoX",
        {**_BLOCKS, "block_out_channels": (4, 4, 4, 4), "latent_channels": 16, "scaling_factor": 0.7},
    ),
    "wan": (
        "AutoencoderKLWan",
        {
            **{"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1], "num_res_blocks": 1},
            **{"temperal_downsample": [True, True]},
            **{"latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [0.5, 1.0, 2.0, 3.0]},
        },
    ),
}
"""Name of a family -> class of the library and its config."""

FACTORS = {"stable_diffusion": 4, "flux": 4, "cogvideox": 8, "wan": 4}
CHANNELS = {"stable_diffusion": 4, "flux": 16, "cogvideox": 16, "wan": 4}


def save_tiny(folder: Path, name: str = "stable_diffusion", seed: int = 0, **changes: Any) -> Path:
    """Save a model of a family with random weights; changes: of its config."""
    import diffusers

    class_name, config = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(diffusers, class_name)(**{**config, **changes})
        for parameter in model.parameters():  # some layers begin at zero: nothing of them would be seen
            parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder
