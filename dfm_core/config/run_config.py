"""`RunConfig`: everything that makes a run, as one immutable value."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, create_model

from dfm_core.config.settings import (
    ComponentChoice,
    FlowSettings,
    LoggingSettings,
    SamplingSettings,
    Section,
    TrainingSettings,
)
from dfm_core.config.sizes import parse_stages
from dfm_core.plugins.kinds import KINDS


def expand_choice(value: object) -> object:
    """Turn the short form of a component, its name alone, into the long one."""
    return {"name": value} if isinstance(value, str) else value


_CHOICE = Annotated[ComponentChoice, BeforeValidator(expand_choice)]
_DEVICE = r"^(auto|cpu|mps|cuda(:\d+)?)$"

# One field a kind, from the table: core has no list of kinds of its own.
_Components: Any = create_model(
    "_Components",
    __base__=Section,
    **cast(Any, {name: (_CHOICE, Field(description=f"The {kind.title}.")) for name, kind in KINDS.items()}),
)


class RunConfig(_Components):  # type: ignore[misc]
    """A run: its stages, one component of each kind, and the sections that core reads.

    Component options are plain data here; `resolve_config` checks them and fills in their defaults.
    """

    stages: Annotated[tuple[tuple[int, ...], ...], BeforeValidator(parse_stages)] = Field(
        description="Size in pixels of each stage's preview, coarse to fine."
    )
    flow: FlowSettings = Field(default_factory=FlowSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    seed: int = Field(0, ge=0, description="Seed of everything that is random.")
    device: str = Field("auto", pattern=_DEVICE, description="auto, cpu, cuda, cuda:N or mps.")
    workers: int = Field(0, ge=0, description="Processes that load data; 0 loads in the main one.")
    output: str | None = Field(None, description="Folder of the run; null for runs/<time>-<name>.")
    name: str | None = Field(None, description="Name of the run, for its folder.")

    def component(self, kind: str) -> ComponentChoice:
        """The chosen component of a kind."""
        return cast(ComponentChoice, getattr(self, kind))
