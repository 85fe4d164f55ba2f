"""The kinds of components, one row each. A new kind is one interface file and one row here."""

from __future__ import annotations

from dataclasses import dataclass

from dfm_core.plugins.specs import (
    BackboneSpec,
    ComponentSpec,
    DatasetSpec,
    DecompositionSpec,
    StageScheduleSpec,
    TimestepSamplerSpec,
)


@dataclass(frozen=True)
class Kind:
    """One kind.

    name: as in configs and as the argument of the Python API. hook: the pluggy hook that lists its components.
    interface: address of the abstract base. spec: the type of its specs.
    """

    name: str
    hook: str
    interface: str
    spec: type[ComponentSpec]

    @property
    def title(self) -> str:
        """The name as prose: "stage schedule"."""
        return self.name.replace("_", " ")


# In the order of assembly: each may use what was made before it.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("dataset", "dfm_datasets", "dfm_core.interfaces.dataset:Dataset", DatasetSpec),
        Kind("autoencoder", "dfm_autoencoders", "dfm_core.interfaces.autoencoder:Autoencoder", ComponentSpec),
        Kind("decomposition", "dfm_decompositions", "dfm_core.interfaces.decomposition:Decomposition", DecompositionSpec),
        Kind("stage_schedule", "dfm_stage_schedules", "dfm_core.interfaces.stage_schedule:StageSchedule", StageScheduleSpec),
        Kind("timestep_sampler", "dfm_timestep_samplers", "dfm_core.interfaces.timestep_sampler:TimestepSampler", TimestepSamplerSpec),
        Kind("backbone", "dfm_backbones", "dfm_core.interfaces.backbone:Backbone", BackboneSpec),
    )
}
