"""The kinds of components, one row each. A new kind is one interface file and one row here."""

from __future__ import annotations

from dataclasses import dataclass

from dfm_core.plugins.specs import (
    AutoencoderSpec,
    BackboneSpec,
    ComponentSpec,
    DatasetSpec,
    DecompositionSpec,
    MetricSpec,
    PathSpec,
    StageScheduleSpec,
    TimestepSamplerSpec,
)


@dataclass(frozen=True)
class Kind:
    """One kind.

    name: as in configs and as the argument of the Python API. hook: the pluggy hook that lists its components.
    interface: address of the abstract base. spec: the type of its specs. part_of_run: whether a run is made of one
    component of this kind, which its configuration names.
    """

    name: str
    hook: str
    interface: str
    spec: type[ComponentSpec]
    part_of_run: bool = True

    @property
    def title(self) -> str:
        """The name as prose: "stage schedule"."""
        return self.name.replace("_", " ")


def _row(name: str, spec: type[ComponentSpec], interface: str | None = None, part_of_run: bool = True) -> Kind:
    interface = interface or "".join(word.capitalize() for word in name.split("_"))
    return Kind(name, f"dfm_{name}s", f"dfm_core.interfaces.{name}:{interface}", spec, part_of_run)


# In the order of assembly: each may use what was made before it.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _row("dataset", DatasetSpec),
        _row("autoencoder", AutoencoderSpec),
        _row("decomposition", DecompositionSpec),
        _row("path", PathSpec, "ProbabilityPath"),
        _row("stage_schedule", StageScheduleSpec),
        _row("timestep_sampler", TimestepSamplerSpec),
        _row("backbone", BackboneSpec),
        _row("metric", MetricSpec, part_of_run=False),
    )
}

RUN_KINDS: dict[str, Kind] = {name: kind for name, kind in KINDS.items() if kind.part_of_run}
"""Those of which a run has one component each."""
