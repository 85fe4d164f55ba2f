"""Images to the stages that the flow sees, and back: autoencoder, decomposition and standardisation in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm_core.errors import CompositionError
from dfm_core.interfaces.autoencoder import Autoencoder
from dfm_core.interfaces.decomposition import Decomposition
from dfm_core.latent_sizes import latent_size
from dfm_core.preconditioning import SIGMA_FLOOR
from dfm_core.stages import Stages


@dataclass(frozen=True)
class StageStatistics:
    """What the data looks like, per stage, over samples, channels and positions.

    rms: root mean square, the σ of the preconditioning. std: standard deviation, the divisor of standardisation.
    num_images: how many images they were estimated from. They travel with the checkpoint.
    """

    rms: tuple[float, ...]
    std: tuple[float, ...]
    num_images: int

    def scales(self, standardize: bool, one_scale: bool = False) -> tuple[float, ...]:
        """Divisor of each stage before noising: its standard deviation, or 1. one_scale: for all that of the finest."""
        if not standardize:
            return (1.0,) * len(self.std)
        return tuple(max(std, SIGMA_FLOOR) for std in (self.std[-1:] * len(self.std) if one_scale else self.std))

    def sigmas(self, scales: Sequence[float]) -> tuple[float, ...]:
        """Root mean square of each stage as the flow sees it, divided by `scales`."""
        return tuple(max(rms / scale, SIGMA_FLOOR) for rms, scale in zip(self.rms, scales, strict=True))


class StageSpace:
    """The way from images or clips, or from their stored latents, to stages and back.

    scales: divisor of each stage before noising (1 where not standardised). Where the stages are those of clips,
    an image (B, C, H, W) is a clip of one frame, (B, C, 1, H, W).
    """

    def __init__(self, autoencoder: Autoencoder, decomposition: Decomposition, scales: Sequence[float]) -> None:
        self.autoencoder = autoencoder
        self.decomposition = decomposition
        self.scales = tuple(scales)

    @property
    def holds_clips(self) -> bool:
        """Whether the stages are those of clips."""
        return len(self.decomposition.facts.stage_sizes[-1]) == 3

    @torch.no_grad()
    def to_stages(self, images: Tensor, generator: torch.Generator | None = None) -> Stages:
        """Encode, decompose and scale images (B, C, H, W) or clips (B, C, T, H, W) in [-1, 1].

        Runs in float32, whatever the network runs in. generator: on the images' device, for autoencoders that draw
        latents in training; None encodes to the mean.
        """
        if self.holds_clips and images.ndim == 4:
            images = images.unsqueeze(2)
        return self.latents_to_stages(encode_images(self.autoencoder, images, generator))

    @torch.no_grad()
    def latents_to_stages(self, latents: Tensor) -> Stages:
        """Decompose and scale latents (B, C, H, W) or (B, C, T, H, W), in float32."""
        with torch.autocast(latents.device.type, enabled=False):
            stages = self.decomposition.decompose(latents)
        return tuple(s if scale == 1 else s / scale for s, scale in zip(stages, self.scales, strict=True))

    def batch_to_stages(self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Stages:
        """Stages of a batch with "image" (B, C, H, W) or "video" (B, C, T, H, W) in [-1, 1], or "latent" of either.

        `to_stages` says the rest. Raises CompositionError for a batch with none of them, and for clips where the stages
        are those of images.
        """
        if "latent" in batch:
            return self.latents_to_stages(batch["latent"])
        if "video" in batch and not self.holds_clips:
            raise CompositionError(
                f"expected a batch of images, got clips {tuple(batch['video'].shape)}; give the stages frames"
            )
        for medium in ("image", "video"):
            if medium in batch:
                return self.to_stages(batch[medium], generator)
        raise CompositionError(f"expected a batch with images, clips or latents, got {', '.join(sorted(batch))}")

    @torch.no_grad()
    def to_images(self, stages: Sequence[Tensor]) -> Tensor:
        """Unscale, recompose and decode the first k stages: the preview at stage k's resolution, (B, C, *size_k)."""
        unscaled = [s if scale == 1 else s * scale for s, scale in zip(stages, self.scales, strict=False)]
        with torch.autocast(stages[0].device.type, enabled=False):
            return self.autoencoder.decode(self.decomposition.recompose(unscaled))


@torch.no_grad()
def encode_images(autoencoder: Autoencoder, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Latents of images (B, C, H, W) or clips (B, C, T, H, W), without autocast. generator: see `to_stages`."""
    with torch.autocast(images.device.type, enabled=False):
        if generator is None or not autoencoder.stochastic:
            return autoencoder.encode(images)
        shape = (len(images), autoencoder.channels, *latent_size(autoencoder, images.shape[2:]))
        return autoencoder.draw(images, torch.randn(shape, generator=generator, device=images.device))


def estimate_statistics(
    autoencoder: Autoencoder, decomposition: Decomposition, batches: Iterable[Mapping[str, Tensor]]
) -> StageStatistics:
    """Measure the stages of batches, as `StageSpace.batch_to_stages` takes them.

    Rows are summed in float32 where the data lies, and their sums in float64 on the CPU.
    """
    space = StageSpace(autoencoder, decomposition, (1.0,) * decomposition.num_stages)
    sums = torch.zeros(3, decomposition.num_stages, dtype=torch.float64)  # count, sum, sum of squares
    num_images = 0
    for batch in batches:
        stages = space.batch_to_stages(batch)
        num_images += len(stages[0])
        for index, stage in enumerate(stages):
            rows, norms = (part.cpu().double() for part in row_sums(stage))
            sums[:, index] += torch.stack([rows.new_tensor(stage.numel()), rows.sum(), norms.square().sum()])
    mean, square = sums[1] / sums[0], sums[2] / sums[0]
    std = (square - mean.square()).clamp_min(0).sqrt()
    return StageStatistics(tuple(square.sqrt().tolist()), tuple(std.tolist()), num_images)


def row_sums(stage: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and Euclidean norm along the last axis, (B, C, …), in float32: without a copy, and MPS has no float64."""
    values = stage.float()
    return values.sum(-1), torch.linalg.vector_norm(values, dim=-1)
