"""A configuration to the objects of a run, in dependency order; refuses what does not fit together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from dfm_core.batch_shares import BatchShares
from dfm_core.composition import Composition, DataDescription, check_other_sizes
from dfm_core.config.settings import ComponentChoice
from dfm_core.errors import CompositionError
from dfm_core.interfaces.autoencoder import Autoencoder, AutoencoderFacts
from dfm_core.interfaces.backbone import Backbone, BackboneFacts
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Split
from dfm_core.interfaces.decomposition import Decomposition, DecompositionFacts
from dfm_core.interfaces.path import PathFacts, ProbabilityPath
from dfm_core.interfaces.stage_schedule import StageSchedule, StageScheduleFacts
from dfm_core.interfaces.timestep_sampler import TimestepSampler, TimestepSamplerFacts
from dfm_core.latent_sizes import latent_sizes, pixel_size
from dfm_core.media import PLURAL, check_media, holds_clips, is_image_as_clip
from dfm_core.plugins.kinds import KINDS, RUN_KINDS
from dfm_core.plugins.registry import OBJECT_PREFIX
from dfm_core.preconditioning import VelocityModel
from dfm_core.randomness import derive_seed
from dfm_core.schedule_coverage import check_schedule
from dfm_core.specialisation import specialised
from dfm_core.stage_space import StageSpace, StageStatistics, estimate_statistics
from dfm_core.stages import StageLayout, format_size

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig
    from dfm_core.plugins.registry import Registry

logger = logging.getLogger("dfm")

Objects = Mapping[str, Any]
"""Kind name -> an object of that kind, or a callable (options, facts) that makes one: used instead of the name."""
Providers = Mapping[str, Mapping[str, str]]
"""Kind name -> who supplied its component: what a checkpoint records."""


class Assembler:
    """Makes the components of one configuration. Each method makes one of them, from what was made before it."""

    def __init__(
        self,
        config: RunConfig,
        registry: Registry,
        objects: Objects | None = None,
        recorded: Providers | None = None,
    ) -> None:
        """Prepare to make the components of `config`. recorded: providers of a model that is used without its data."""
        self.config = config
        self.registry = registry
        self.objects = objects or {}
        self.recorded = recorded or {}

    def make(self, kind: str, facts: object) -> Any:
        """Make the component of a kind: the object given for it, or the one that the config names."""
        given = self.objects.get(kind)
        if given is None:
            choice = self.config.component(kind)
            return self.registry.create(kind, choice.name, choice.options, facts)
        if isinstance(given, type) or (callable(given) and not isinstance(given, torch.nn.Module)):
            return given(self.config.component(kind).options, facts)
        return given

    def providers(self) -> dict[str, dict[str, str]]:
        """Say for each kind which component, plugin and version supplies it: what a checkpoint records."""
        return {kind: self._provider(kind) for kind in RUN_KINDS}

    def _provider(self, kind: str) -> dict[str, str]:
        if kind in self.objects:
            return {"object": object_name(self.objects[kind])}
        if kind == "dataset" and kind in self.recorded:
            return dict(self.recorded[kind])
        info = self.registry.get(kind, self.config.component(kind).name).plugin
        return {
            "name": self.config.component(kind).name,
            "plugin": info.namespace,
            "distribution": info.distribution,
            "version": info.version,
            **({"file": info.address} if info.file is not None else {}),
        }

    def check_providers(self, saved: Providers) -> None:
        """Compare with what a checkpoint recorded: a missing object is an error, another plugin version a warning.

        Plugin files are compared where the configuration is read: see `dfm_core.config.plugin_files`.
        """
        for kind, before in saved.items():
            if kind == "dataset":
                continue  # a model is used without its data
            if "object" in before and kind not in self.objects:
                raise CompositionError(
                    f"this model was made with an object for {kind} ({before['object']}); "
                    f"pass it again: objects={{{kind!r}: …}}"
                )
            if "version" in before and "file" not in before and kind not in self.objects:
                now = self._provider(kind)
                if (now["distribution"], now["version"]) != (before["distribution"], before["version"]):
                    logger.warning(
                        "%s %s: the model was made with %s %s, here it is %s %s",
                        KINDS[kind].title,
                        before["name"],
                        before["distribution"],
                        before["version"],
                        now["distribution"],
                        now["version"],
                    )

    def check_media(self, kinds: Iterable[str] = RUN_KINDS) -> None:
        """Raise CompositionError if a component does not take what the stages hold, images or clips.

        Components given as objects declare nothing.
        """
        check_media(self.config, self.registry, [kind for kind in kinds if kind not in self.objects])

    def dataset(self, split: Split = "train") -> Dataset:
        """Make the data set of a split, at the finest stage's size; of images, where clips have one frame."""
        self.check_media(["dataset"])
        size = self.config.stages[-1]
        if "dataset" not in self.objects and is_image_as_clip(self.config, self.registry):
            size = size[1:]
        return cast(Dataset, self.make("dataset", DatasetFacts(size, split, self.config.seed)))

    def autoencoder(self, channels: int, device: torch.device) -> Autoencoder:
        """Make the autoencoder, frozen and in evaluation mode."""
        autoencoder: Autoencoder = self.make("autoencoder", AutoencoderFacts(channels, holds_clips(self.config)))
        return autoencoder.to(device).eval().requires_grad_(False)

    def decomposition(self, autoencoder: Autoencoder) -> Decomposition:
        """Make the decomposition of the autoencoder's latents."""
        sizes = latent_sizes(self.config.stages, autoencoder)
        return cast(Decomposition, self.make("decomposition", DecompositionFacts(sizes, autoencoder.channels)))

    def scales(self, statistics: StageStatistics) -> tuple[float, ...]:
        """Divisors of the stages before noising, as the configuration asks and the path allows."""
        name = self.config.component("path").name
        one_scale = "path" not in self.objects and getattr(self.registry.get("path", name).spec, "one_scale", False)
        return statistics.scales(self.config.flow.standardize, one_scale)

    def path(self, decomposition: Decomposition, scales: Sequence[float]) -> ProbabilityPath:
        """Make the probability path of stages that were divided by `scales`."""
        facts = PathFacts(stage_layout(decomposition), tuple(scales), decomposition.whole_stages)
        return cast(ProbabilityPath, self.make("path", facts))

    def compose(
        self,
        data: DataDescription,
        statistics: StageStatistics | None,
        device: torch.device,
        batches: Iterable[Mapping[str, torch.Tensor]] = (),
    ) -> Composition:
        """Make everything but the data set. statistics: known ones, or None to estimate them from batches of data."""
        self.check_media(kind for kind in RUN_KINDS if kind != "dataset")
        autoencoder = self.autoencoder(data.channels, device)
        decomposition = self.decomposition(autoencoder)
        check_latents(data, autoencoder, decomposition)
        check_other_sizes(data, autoencoder, decomposition)
        layout = stage_layout(decomposition)
        if statistics is None:
            there = ({name: value.to(device) for name, value in batch.items()} for batch in batches)
            statistics = estimate_statistics(autoencoder, decomposition, there)
        scales = self.scales(statistics)
        sigmas = statistics.sigmas(scales)
        schedule: StageSchedule = self.make("stage_schedule", StageScheduleFacts(len(layout), sigmas))
        grid = schedule.grid()
        sampler: TimestepSampler = self.make("timestep_sampler", TimestepSamplerFacts(len(layout), grid))
        path = self.path(decomposition, scales)
        path.check_grid(grid)
        check_schedule(self.config, self.registry, grid, sampler, sigmas)
        self.batch_shares(sampler)
        model = VelocityModel(self.backbone(layout, data), self.config.flow.preconditioning, sigmas, path).to(device)
        space = StageSpace(autoencoder, decomposition, scales)
        return Composition(self.config, data, statistics, space, layout, schedule, grid, sampler, model)

    def batch_shares(self, sampler: TimestepSampler) -> BatchShares:
        """What training keeps of a batch. Raises CompositionError where the sampler does not go with it."""
        shares = BatchShares.of(self.config.flow)
        shares.check(sampler, self.config.component("timestep_sampler").name)
        return shares

    def backbone(self, layout: StageLayout, data: DataDescription) -> Backbone:
        """Make the network, its initial weights drawn from the run's seed; torch's random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.seed, "weights"))
            backbone: Backbone = self.make("backbone", BackboneFacts(layout, len(data.classes)))
            return specialised(backbone, self.config.specialisation)


def object_name(given: object) -> str:
    """Address of a given object's class, or of the given class or function itself."""
    named = given if hasattr(given, "__qualname__") else type(given)
    return f"{named.__module__}.{getattr(named, '__qualname__', '')}"


def with_objects(config: RunConfig, objects: Objects) -> RunConfig:
    """Record in a config which components were given as objects, so that nobody takes the default's name for them."""
    choices = {
        kind: ComponentChoice(name=f"{OBJECT_PREFIX}{object_name(given)}", options={})
        for kind, given in objects.items()
    }
    return config.model_copy(update=choices)


def check_latents(data: DataDescription, autoencoder: Autoencoder, decomposition: Decomposition) -> None:
    """Raise CompositionError if the data is latents of another autoencoder, or of another size than the stages'."""
    if data.latents is None:
        return
    if data.latents.autoencoder != autoencoder.key:
        raise CompositionError(
            f"the data is latents made by the autoencoder {data.latents.autoencoder}, this run's is {autoencoder.key}; "
            "use the autoencoder that made them, or encode the images again (dfm encode)"
        )
    expected = (autoencoder.channels, *decomposition.facts.stage_sizes[-1])
    if data.latents.shape != expected:
        size = data.latents.shape[1:]
        made_of = format_size(pixel_size(autoencoder, size))
        media = PLURAL["video" if len(size) == 3 else "image"]
        raise CompositionError(
            f"the data is latents {format_size(data.latents.shape)}, of {media} of {made_of} pixels, and the finest "
            f"stage needs {format_size(expected)}; end the stages with {made_of}, or encode at another size"
        )


def stage_layout(decomposition: Decomposition) -> StageLayout:
    """Layout of a decomposition at the size that it was built for."""
    return decomposition.layout((decomposition.facts.channels, *decomposition.facts.stage_sizes[-1]))
