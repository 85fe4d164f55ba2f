"""The parts of one model, made for each other, and what of them must lie beside the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from dfm_core.batch_shares import BatchShares
from dfm_core.errors import CompositionError, StageShapeError, StageSizeError
from dfm_core.generation import GenerationStep, Guidance, generate
from dfm_core.interfaces.autoencoder import Autoencoder
from dfm_core.interfaces.dataset import StoredLatents
from dfm_core.interfaces.decomposition import Decomposition
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageSchedule
from dfm_core.interfaces.timestep_sampler import TimestepSampler
from dfm_core.latent_sizes import latent_size
from dfm_core.objective import FlowObjective
from dfm_core.preconditioning import VelocityModel
from dfm_core.stage_space import StageSpace, StageStatistics
from dfm_core.stages import Size, StageLayout, format_size

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig


@dataclass(frozen=True)
class DataDescription:
    """What a model must know of the data it was trained on.

    channels: of its images. classes: names of its labels. latents: who made them, where the data is stored latents.
    other_sizes: of samples besides those of the finest stage's (images among clips).
    """

    channels: int
    classes: tuple[str, ...]
    latents: StoredLatents | None = None
    other_sizes: tuple[Size, ...] = ()


@dataclass(frozen=True)
class Composition:
    """All parts of one model, made for each other."""

    config: RunConfig
    data: DataDescription
    statistics: StageStatistics
    space: StageSpace
    layout: StageLayout
    schedule: StageSchedule
    grid: ScheduleGrid
    timestep_sampler: TimestepSampler
    model: VelocityModel

    @property
    def num_stages(self) -> int:
        """Number of stages S."""
        return len(self.layout)

    @property
    def generated_stages(self) -> int:
        """How many stages a generation ends with: all, unless they are left to another training (cascaded models)."""
        return int(self.grid.visible[-1].nonzero().max()) + 1

    @property
    def generated_size(self) -> Size:
        """Height × width of what is generated, of clips frames × height × width."""
        return self.config.stages[self.generated_stages - 1]

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.model.stage_sigmas.device

    @property
    def null_label(self) -> int:
        """Label that stands for "no label"."""
        return len(self.data.classes)

    @property
    def batch_shares(self) -> BatchShares:
        """What training keeps of a batch."""
        return BatchShares.of(self.config.flow)

    def objective(self) -> FlowObjective:
        """Return the training loss of this model."""
        dropout = self.config.flow.label_dropout
        return FlowObjective(self.model, self.space, self.timestep_sampler, self.null_label, dropout, self.batch_shares)

    def generate(
        self,
        indices: Sequence[int],
        labels: Sequence[int] | None,
        seed: int,
        solver: str | None = None,
        guidance: Guidance | None = None,
    ) -> Iterator[GenerationStep]:
        """Generate images `indices` of `seed`; see `dfm_core.generation.generate`."""
        sampling = self.config.sampling
        if guidance is None:
            guidance = Guidance(sampling.cfg, sampling.cfg_interval)
        if labels is None and guidance.weight != 1:
            raise CompositionError(
                "guidance (cfg other than 1) needs labels, and this model was trained without any; use cfg 1"
            )
        return generate(
            self.model,
            self.space,
            self.grid,
            self.layout,
            indices=indices,
            labels=labels,
            null_label=self.null_label,
            seed=seed,
            solver=solver or sampling.solver,
            guidance=guidance,
        )


def snapshot(composition: Composition, providers: dict[str, dict[str, str]]) -> dict[str, Any]:
    """What must lie beside the weights so that a model can be made again: plain data for JSON."""
    return {
        "config": composition.config.model_dump(mode="json"),
        "data": asdict(composition.data),
        "statistics": asdict(composition.statistics),
        "providers": providers,
        "autoencoder": composition.space.autoencoder.key,
    }


def data_from_snapshot(saved: Mapping[str, Any]) -> tuple[DataDescription, StageStatistics]:
    """Read back what `snapshot` wrote of the data."""
    data, statistics = saved["data"], saved["statistics"]
    stored = data.get("latents")
    latents = StoredLatents(stored["autoencoder"], tuple(stored["shape"])) if stored else None
    other_sizes = tuple(tuple(size) for size in data.get("other_sizes", ()))
    return (
        DataDescription(data["channels"], tuple(data["classes"]), latents, other_sizes),
        StageStatistics(tuple(statistics["rms"]), tuple(statistics["std"]), statistics["num_images"]),
    )


def check_autoencoder(saved: Mapping[str, Any], composition: Composition) -> None:
    """Raise CompositionError if the autoencoder is no longer the one that a model was trained with."""
    before, now = saved.get("autoencoder"), composition.space.autoencoder.key
    if before not in (None, now):
        raise CompositionError(
            f"this model was trained with the autoencoder {before}, which is now {now}: its weights or options have "
            "changed; put the former ones back"
        )


def check_other_sizes(data: DataDescription, autoencoder: Autoencoder, decomposition: Decomposition) -> None:
    """Raise CompositionError if the data holds samples, besides those of the finest stage, that cannot be split."""
    for size in data.other_sizes:
        try:
            decomposition.layout((autoencoder.channels, *latent_size(autoencoder, size)))
        except (StageShapeError, StageSizeError) as error:
            sizes = ",".join(map(format_size, decomposition.facts.stage_sizes))
            raise CompositionError(
                f"the data also holds samples of {format_size(size)} (an image is a clip of one frame), which stages "
                f"{sizes} cannot split: {error}; give all stages as many frames, or causal ones such as 3 and 5 (the "
                "first on its own), or leave the images out"
            ) from error
