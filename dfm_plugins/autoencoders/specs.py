"""The autoencoders that ship: names and addresses."""

from __future__ import annotations

from dfm_core.plugins import AutoencoderSpec

SPECS = [
    AutoencoderSpec(
        name="pixels",
        summary="No autoencoder: the flow runs on pixels.",
        factory="dfm_plugins.autoencoders.pixels:Pixels",
    ),
]
