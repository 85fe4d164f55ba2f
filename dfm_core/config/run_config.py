"""`RunConfig`: everything that makes a run, as one immutable value."""

from __future__ import annotations

import re
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator, Field, create_model

from dfm_core.config.settings import (
    ComponentChoice,
    FlowSettings,
    LoggingSettings,
    SamplingSettings,
    Section,
    TrainingSettings,
)
from dfm_core.config.sizes import parse_stages
from dfm_core.plugins.kinds import RUN_KINDS


def expand_choice(value: object) -> object:
    """Turn the short form of a component, its name alone, into the long one."""
    return {"name": value} if isinstance(value, str) else value


def check_device(value: str) -> str:
    """Raise ValueError unless this is the name of a device; whether it is there is asked when it is used."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError(f"expected auto, cpu, cuda, cuda:N or mps, got {value!r}")
    return value


class RecordedFile(Section):
    """A plugin file that supplied components: where it lay, and the SHA-256 of its content."""

    path: str = Field(description="Where the file lay; nothing is loaded from there.")
    sha256: str = Field(description="SHA-256 of its content.")


def _defaults(section: type[Section]) -> Any:
    return Field(default_factory=lambda: section.model_validate({}))


_CHOICE = Annotated[ComponentChoice, BeforeValidator(expand_choice)]

# One field a kind, from the table: core has no list of kinds of its own.
_Components: type[Section] = create_model(
    "_Components",
    __base__=Section,
    **cast(Any, {name: (_CHOICE, Field(description=f"The {kind.title}.")) for name, kind in RUN_KINDS.items()}),
)


class RunConfig(_Components):  # type: ignore[misc, valid-type]
    """A run: its stages, one component of each kind, and the sections that core reads.

    Component options are plain data here; `resolve_config` checks them and fills in their defaults.
    """

    stages: Annotated[tuple[tuple[int, ...], ...], BeforeValidator(parse_stages)] = Field(
        description="Size in pixels of each stage's preview, coarse to fine."
    )
    flow: FlowSettings = _defaults(FlowSettings)
    training: TrainingSettings = _defaults(TrainingSettings)
    logging: LoggingSettings = _defaults(LoggingSettings)
    sampling: SamplingSettings = _defaults(SamplingSettings)
    seed: int = Field(0, ge=0, description="Seed of everything that is random.")
    device: Annotated[str, AfterValidator(check_device)] = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    workers: int = Field(0, ge=0, description="Processes that load data; 0 loads in the main one.")
    output: str | None = Field(None, description="Folder of the run; null for runs/<time>-<name>.")
    name: str | None = Field(None, description="Name of the run, for its folder.")
    plugin_files: dict[str, RecordedFile] = Field(
        default_factory=dict, description="Plugin files in use, by namespace: written by the program, for the record."
    )

    def component(self, kind: str) -> ComponentChoice:
        """The chosen component of a kind."""
        return cast(ComponentChoice, getattr(self, kind))
