"""What a plugin returns from its hooks: torch-free descriptions of its components."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

MEDIA = frozenset({"image", "video"})
"""What a component of these kinds may say that it takes. A data set may hold latents, too."""

TimeGrid = Annotated[
    Literal["auto", "plain", "causal"],
    Field(
        description="How stages of different frame counts divide a clip. plain: all frames alike (4 of 8). causal: the "
        "first on its own (5 of 9). auto: causal where the counts less one divide and the counts do not, else plain."
    ),
]
"""Type of the option `time_grid` of a decomposition that is a ResidualPyramid, which obeys it; give it a default."""


class Options(BaseModel):
    """Base of every options model: typed, immutable, unknown fields are errors (its `model_config`).

    Give every field a type, a range and a description: they become YAML, `--set` and the table of `dfm plugins show`.
    places: names of the fields that only say where something lies; these may change when a run goes on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    places: ClassVar[frozenset[str]] = frozenset()


@dataclass(frozen=True)
class ComponentSpec:
    """One component: a name, a sentence and an address.

    name: bare, lower case with underscores. summary: one line. factory: "package.module:Class", imported only when
    the component is used; called as `Class(options, facts)`. options: its pydantic model. reference: where it comes
    from (paper, equation).
    """

    name: str
    summary: str
    factory: str
    options: type[BaseModel] = Options
    reference: str = ""

    def capabilities(self) -> dict[str, object]:
        """Return what the component declares of itself beside the fields that every kind has."""
        common = ComponentSpec.__dataclass_fields__
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in common}

    def holds(self, capability: str, options: BaseModel) -> bool:
        """Whether a declared capability holds under these options."""
        declared = getattr(self, capability)
        if isinstance(declared, dict):
            return all(getattr(options, option) == value for option, value in declared.items())
        return bool(declared)


@dataclass(frozen=True)
class DecompositionSpec(ComponentSpec):
    """A decomposition and what it declares.

    linear: decompose is linear. orthonormal: it keeps the squared norm. critically_sampled: as many coefficients as
    inputs. zero_mean_details: a constant image has empty detail stages. Where a property depends on the options
    (say `domain`), give the names of the options' values that have it as {"option": "value"}; see `holds`.
    several_stages: it takes more than one stage. media: what it splits, "image", "video" or both.
    """

    linear: bool = False
    orthonormal: bool | dict[str, str] = False
    critically_sampled: bool | dict[str, str] = False
    zero_mean_details: bool = False
    several_stages: bool = True
    media: frozenset[str] = frozenset({"image"})


@dataclass(frozen=True)
class StageScheduleSpec(ComponentSpec):
    """A stage schedule.

    progressive: stages start one after the other, each when the one before has reached its threshold; where that
    depends on the options, {"option": "value"}.
    """

    progressive: bool | dict[str, str] = False


@dataclass(frozen=True)
class TimestepSamplerSpec(ComponentSpec):
    """A timestep sampler. earlier_cleaner: in a draw the earlier stages are on average closer to data."""

    earlier_cleaner: bool = False


@dataclass(frozen=True)
class PathSpec(ComponentSpec):
    """A probability path.

    partners: kind -> component of that kind with which it goes, where the default one does not fit: its name, or a
    mapping of `name` and `options`. one_scale: it mixes the stages, so that standardisation divides all of them by one
    number.
    """

    partners: dict[str, object] = field(default_factory=dict)
    one_scale: bool = False


@dataclass(frozen=True)
class BackboneSpec(ComponentSpec):
    """A backbone.

    media: what its stages may hold, "image", "video" or both. joint_stages: stages that are visible together see each
    other.
    """

    media: frozenset[str] = frozenset({"image"})
    joint_stages: bool = True


@dataclass(frozen=True)
class AutoencoderSpec(ComponentSpec):
    """An autoencoder. media: what it encodes, "image", "video" or both."""

    media: frozenset[str] = frozenset({"image"})


@dataclass(frozen=True)
class DatasetSpec(ComponentSpec):
    """A data set. media: which keys its samples may hold, of "image", "video" and "latent"."""

    media: frozenset[str] = frozenset({"image"})


@dataclass(frozen=True)
class MetricSpec(ComponentSpec):
    """A metric.

    compares: the samples are measured against a reference, and not on their own. by_default: what is measured when
    nobody asks; of the built-in ones only. media: what it measures.
    """

    compares: bool = True
    by_default: bool = False
    media: frozenset[str] = frozenset({"image"})


@dataclass(frozen=True)
class PresetSpec:
    """A YAML file with values that differ from the defaults.

    name: lower case with - or _; users write `--preset namespace/name`. summary: one line. path: the file.
    """

    name: str
    summary: str
    path: Path
