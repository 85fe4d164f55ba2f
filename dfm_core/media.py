"""Whether components take what the stages hold, images or clips: asked of what they declare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dfm_core.config.sizes import Size, medium_of, write_size, write_stages
from dfm_core.errors import CompositionError
from dfm_core.plugins.kinds import KINDS

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.plugins.registry import Registry

PLURAL = {"image": "images", "video": "clips", "latent": "latents"}
"""A medium as prose."""


def holds_clips(config: RunConfig) -> bool:
    """Whether a run is one of clips."""
    return medium_of(config.stages) == "video"


def media_noun(config: RunConfig) -> str:
    """What a run makes, as prose: "images" or "clips"."""
    return PLURAL[medium_of(config.stages)]


def media_of(registry: Registry, kind: str, name: str) -> frozenset[str]:
    """What a component declares to take or to give; empty where its kind does not ask."""
    return frozenset(getattr(registry.get(kind, name).spec, "media", ()))


def check_media(config: RunConfig, registry: Registry, kinds: Iterable[str]) -> None:
    """Raise CompositionError if a component of these kinds does not take what the stages hold, naming those that do.

    A data set that may hold latents passes: theirs are compared when they are there. So does one of images where
    clips have one frame.
    """
    medium = medium_of(config.stages)
    faults = []
    for kind in kinds:
        name = config.component(kind).name
        declared = media_of(registry, kind, name)
        if declared and not _passes(config, registry, kind, declared):
            fitting = [other for other in registry.names(kind) if medium in media_of(registry, kind, other)]
            flag = f" (--{kind.replace('_', '-')})" if fitting else ""
            fits = f"{PLURAL[medium]}: {', '.join(fitting) or 'none that is loaded'}{flag}"
            faults.append(f"{KINDS[kind].title} {name!r} is for {_listed(declared)}; for {fits}")
    if faults:
        raise CompositionError("\n".join([_what_stages_hold(config), *faults]))


def measured_size(size: Size) -> Size:
    """Size at which something is measured: of a clip of one frame, that of an image."""
    return size[1:] if len(size) == 3 and size[0] == 1 else size


def measured_medium(size: Size) -> str:
    """As what something of a size is measured: "image" or "video"."""
    return medium_of([measured_size(size)])


def check_metrics_fit(names: Iterable[str], size: Size, registry: Registry) -> None:
    """Raise CompositionError if a metric does not take what is measured, images or clips, naming those that do."""
    medium = measured_medium(size)
    faults = [
        f"metric {name!r} is for {_listed(declared)}"
        for name in names
        if medium not in (declared := media_of(registry, "metric", name))
    ]
    if faults:
        fitting = [name for name in registry.names("metric") if medium in media_of(registry, "metric", name)]
        what = f"{PLURAL[medium]} of {write_size(measured_size(size))} are measured"
        advice = f"for {PLURAL[medium]}: {', '.join(fitting)} (--metrics)"
        raise CompositionError("\n".join([f"{what}, which not every metric takes:", *faults, advice]))


def is_image_as_clip(config: RunConfig, registry: Registry) -> bool:
    """Whether the data set is one of images, for a run whose clips have one frame."""
    media = media_of(registry, "dataset", config.component("dataset").name)
    return holds_clips(config) and config.stages[-1][0] == 1 and "image" in media and "video" not in media


def _passes(config: RunConfig, registry: Registry, kind: str, declared: frozenset[str]) -> bool:
    if kind == "dataset" and ("latent" in declared or is_image_as_clip(config, registry)):
        return True
    return medium_of(config.stages) in declared


def _what_stages_hold(config: RunConfig) -> str:
    stages = write_stages(config.stages)
    if holds_clips(config):
        return f"the stages {stages} are those of clips (frames × height × width), which not every component takes:"
    return f"the stages {stages} are those of images (height × width; --frames 8 would make clips of 8 frames):"


def _listed(media: Iterable[str]) -> str:
    return " and ".join(PLURAL.get(medium, medium) for medium in sorted(media))
