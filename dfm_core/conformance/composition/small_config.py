"""A small configuration with the component that is judged: stages that all parts accept, a schedule that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from dfm_core.assembly import Assembler, stage_layout
from dfm_core.config.resolve import CHECK_DEFAULTS, ConfigRequest, Level, resolve_config
from dfm_core.config.run_config import RunConfig
from dfm_core.config.yaml_text import read_mapping
from dfm_core.conformance.composition.one_batch import BATCH_SIZE
from dfm_core.conformance.law import LawBroken
from dfm_core.conformance.subject import Subject
from dfm_core.errors import CompositionError, PluginError, UsageError
from dfm_core.interfaces.autoencoder import Autoencoder
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageScheduleFacts
from dfm_core.interfaces.timestep_sampler import TimestepSampler, TimestepSamplerFacts
from dfm_core.latent_sizes import pixel_size
from dfm_core.media import media_of
from dfm_core.plugins.kinds import KINDS, RUN_KINDS
from dfm_core.plugins.registry import Registry
from dfm_core.runs.start import describe_data
from dfm_core.schedule_coverage import check_schedule, unseen_stage_sets
from dfm_core.stages import Size

STEPS = 30
# In latents, of which the first that is accepted is taken: two stages where possible.
SIZES: tuple[tuple[Size, ...], ...] = (
    ((8, 8), (16, 16)),
    ((16, 16), (32, 32)),
    ((8, 8), (32, 32)),
    ((32, 32), (64, 64)),
    ((8, 8),),
    ((16, 16),),
    ((32, 32),),
    ((8, 8), (16, 16), (32, 32)),
    ((4, 4), (8, 8), (16, 16), (32, 32)),
)
CLIP_SIZES: tuple[tuple[Size, ...], ...] = (((4, 4), (8, 8)), *SIZES)
"""Of clips: smaller ones first, since each frame has as many tokens as an image."""
SMALL = Level({"preset": CHECK_DEFAULTS}, soft=True)
"""Default components that are smaller than a user's."""
FRAMES = 3
"""Of a component that takes clips alone, or is told something of clips."""

Partners = Mapping[str, object]
"""Kind -> a name, or a name and options, in the place of the default component."""


@dataclass(frozen=True)
class Parts:
    """A configuration whose parts were made. grid, sampler: for stages of root mean square 1."""

    config: RunConfig
    grid: ScheduleGrid
    sampler: TimestepSampler


class SmallConfig:
    """Finds the configuration. folder: an empty one, for the run."""

    def __init__(self, subject: Subject, registry: Registry, folder: Path, partners: Partners) -> None:
        self._subject, self._registry, self._folder = subject, registry, folder
        self._given = partners
        self._media = getattr(subject.resolved.spec, "media", frozenset({"image"}))
        self._hold(clips=self._media == {"video"})

    def accepted(self) -> Parts:
        """Find stages at which every part can be made: of images where possible, else of clips.

        Raises LawBroken where each choice is refused.
        """
        refusals: list[str] = []
        for clips in [False] * (self._media != {"video"}) + [True] * ("video" in self._media):
            self._hold(clips)
            autoencoder = self._autoencoder()
            for sizes in CLIP_SIZES if clips else SIZES:
                try:
                    return self._parts([pixel_size(autoencoder, (*self._frames, *size)) for size in sizes], {})
                except PluginError:
                    raise
                except UsageError as refusal:
                    refusals.append(str(refusal))
        raise LawBroken(
            f"each of {len(refusals)} choices of stages is refused, expected one to be accepted; the first refusal: "
            f"{refusals[0]}"
        )

    def fitting(self, parts: Parts) -> Parts:
        """Take another schedule (for a schedule: another sampler) where training does not draw what it visits.

        Raises LawBroken where none fits.
        """
        if not unseen_stage_sets(parts.grid, parts.sampler):
            return parts
        kind = "timestep_sampler" if self._subject.kind == "stage_schedule" else "stage_schedule"
        for name in self._registry.names(kind):
            try:
                other = self._parts(parts.config.stages, {kind: name})
            except UsageError:
                continue
            if not unseen_stage_sets(other.grid, other.sampler):
                return other
        raise LawBroken(
            f"{self._refusal(parts)}. No {KINDS[kind].title} of this installation fits: visit, or draw, other sets of "
            "stages, or ship one that fits"
        )

    def _hold(self, clips: bool) -> None:
        """Go on with images, or with clips of a few frames."""
        self._frames = (FRAMES,) if clips else ()
        self._partners = {**(_takers_of_clips(self._registry) if clips else {}), **self._given}

    def _refusal(self, parts: Parts) -> str:
        """What assembly says of a schedule and a sampler that do not fit."""
        sigmas = (1.0,) * parts.grid.num_stages
        try:
            check_schedule(parts.config, self._registry, parts.grid, parts.sampler, sigmas)
        except CompositionError as error:
            return str(error)
        return "assembly accepts a schedule that visits what training never draws"

    def _autoencoder(self) -> Autoencoder:
        assembler = Assembler(self._config([(*self._frames, 64, 64)], {}), self._registry)
        return assembler.autoencoder(assembler.dataset().channels, torch.device("cpu"))

    def _parts(self, stages: object, partners: Partners) -> Parts:
        """Make every part. Raises UsageError where one refuses."""
        config = self._config(stages, partners)
        assembler = Assembler(config, self._registry)
        dataset = assembler.dataset()
        autoencoder = assembler.autoencoder(dataset.channels, torch.device("cpu"))
        decomposition = assembler.decomposition(autoencoder)
        layout = stage_layout(decomposition)
        assembler.backbone(layout, describe_data(dataset))
        grid = assembler.make("stage_schedule", StageScheduleFacts(len(layout), (1.0,) * len(layout))).grid()
        assembler.path(decomposition, (1.0,) * len(layout)).check_grid(grid)
        return Parts(config, grid, assembler.make("timestep_sampler", TimestepSamplerFacts(len(layout), grid)))

    def _config(self, stages: object, partners: Partners) -> RunConfig:
        subject = self._subject
        values = {
            **getattr(subject.resolved.spec, "partners", {}),
            **self._partners,
            **partners,
            subject.kind: {"name": subject.resolved.name, "options": subject.options.model_dump(mode="json")},
            "stages": stages,
            "device": "cpu",
            "output": str(self._folder / "run"),
            "flow": {"statistics_images": BATCH_SIZE},
            "training": {
                "max_steps": STEPS,
                "batch_size": BATCH_SIZE,
                "learning_rate": 1e-3,
                "warmup_steps": 0,
                "ema_decay": 0.5,
            },
            "logging": {"tensorboard": False, "sample_every": 0, "validation_every": 0, "log_every": STEPS},
        }
        return resolve_config(ConfigRequest(below=(SMALL,), values=values), self._registry).config


def _takers_of_clips(registry: Registry) -> dict[str, object]:
    """For each kind whose default component takes no clips, the first one that does and needs no options, as small."""
    defaults, found = resolve_config(ConfigRequest(), registry).config, dict[str, object]()
    for kind in RUN_KINDS:
        declared = media_of(registry, kind, defaults.component(kind).name)
        if not declared or "video" in declared:
            continue
        for name in registry.names(kind):
            options = registry.get(kind, name).spec.options.model_fields.values()
            if "video" in media_of(registry, kind, name) and not any(option.is_required() for option in options):
                found[kind] = {"name": name, "options": _small_options(registry, kind, name)}
                break
    return found


def _small_options(registry: Registry, kind: str, name: str) -> dict[str, object]:
    """What makes the default component of a kind small, as far as another one has options of these names."""
    given = read_mapping(registry.preset(CHECK_DEFAULTS), CHECK_DEFAULTS).get(kind, {})
    known = registry.get(kind, name).spec.options.model_fields
    return {option: value for option, value in given.get("options", {}).items() if option in known}
