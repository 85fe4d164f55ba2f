"""The kinds of components, one row each. A new kind is one interface file and one row here."""

from __future__ import annotations

from dataclasses import dataclass

from dfm_core.plugins.specs import (
    AutoencoderSpec,
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


def _row(name: str, spec: type[ComponentSpec]) -> Kind:
    interface = "".join(word.capitalize() for word in name.split("_"))
    return Kind(name, f"dfm_{name}s", f"dfm_core.interfaces.{name}:{interface}", spec)


# In the order of assembly: each may use what was made before it.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _row("dataset", DatasetSpec),
        _row("autoencoder", AutoencoderSpec),
        _row("decomposition", DecompositionSpec),
        _row("stage_schedule", StageScheduleSpec),
        _row("timestep_sampler", TimestepSamplerSpec),
        _row("backbone", BackboneSpec),
    )
}
