"""How sizes in pixels and sizes in latents belong together: the one place that divides."""

from __future__ import annotations

from collections.abc import Sequence

from dfm_core.errors import StageSizeError
from dfm_core.interfaces.autoencoder import Autoencoder
from dfm_core.stages import Size, format_size


def latent_size(autoencoder: Autoencoder, size: Sequence[int]) -> Size:
    """Size of the latents of images (height × width) or clips (frames × height × width) that the autoencoder takes.

    A clip's first frame has a latent of its own, and so has every `temporal_downsample_factor` after it. Raises
    StageSizeError for a size that does not divide.
    """
    *frames, height, width = size
    factor, group = autoencoder.downsample_factor, autoencoder.temporal_downsample_factor
    if height % factor or width % factor or any((count - 1) % group for count in frames):
        raise StageSizeError(f"{format_size(size)}: {_division(autoencoder, bool(frames))}")
    return (*((count - 1) // group + 1 for count in frames), height // factor, width // factor)


def latent_sizes(stages: Sequence[Size], autoencoder: Autoencoder) -> tuple[Size, ...]:
    """Sizes of all stages in latents. Raises StageSizeError, with sizes that would do, if one does not divide."""
    wrong = []
    for size in stages:
        try:
            latent_size(autoencoder, size)
        except StageSizeError:
            wrong.append(format_size(size))
    if wrong:
        near = ",".join(format_size(_nearest(autoencoder, size)) for size in stages)
        division = _division(autoencoder, len(stages[-1]) == 3)
        raise StageSizeError(f"stages {', '.join(wrong)}: {division}; {near} would work")
    return tuple(latent_size(autoencoder, size) for size in stages)


def pixel_size(autoencoder: Autoencoder, size: Sequence[int]) -> Size:
    """Size of the images or clips whose latents have a size: the inverse of `latent_size`."""
    *frames, height, width = size
    factor, group = autoencoder.downsample_factor, autoencoder.temporal_downsample_factor
    return (*((count - 1) * group + 1 for count in frames), height * factor, width * factor)


def _nearest(autoencoder: Autoencoder, size: Size) -> Size:
    *frames, height, width = size
    factor, group = autoencoder.downsample_factor, autoencoder.temporal_downsample_factor
    latents = (*(round((count - 1) / group) + 1 for count in frames), round(height / factor), round(width / factor))
    return pixel_size(autoencoder, [max(1, length) for length in latents])


def _division(autoencoder: Autoencoder, of_clips: bool) -> str:
    """How an autoencoder divides, for messages."""
    group = autoencoder.temporal_downsample_factor
    frames = f", and the frames after the first by {group}" if of_clips and group > 1 else ""
    return f"the autoencoder divides by {autoencoder.downsample_factor}{frames}"
