"""`RunConfig`: everything that makes a run, as one immutable value."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, create_model

from dfm_core.config.settings import (
    ComponentChoice,
    FlowSettings,
    LoggingSettings,
    SamplingSettings,
    Section,
    SpecialisationSettings,
    TrainingSettings,
)
from dfm_core.config.sizes import Size, parse_stages, with_frames
from dfm_core.plugins.kinds import RUN_KINDS


def expand_choice(value: object) -> object:
    """Turn the short form of a component, its name alone, into the long one."""
    return {"name": value} if isinstance(value, str) else value


def check_device(value: str) -> str:
    """Raise ValueError unless this is the name of a device; whether it is there is asked when it is used."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError(f"expected auto, cpu, cuda, cuda:N or mps, got {value!r}")
    return value


def check_frames(stages: tuple[Size, ...], info: ValidationInfo) -> tuple[Size, ...]:
    """Give stages the frames that `frames` says; it is validated before them."""
    frames = info.data.get("frames")
    return stages if frames is None else with_frames(stages, frames)


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

    frames: int | None = Field(
        None, ge=1, description="Frames of a clip, for stages that are written as height × width; null for images."
    )
    stages: Annotated[tuple[Size, ...], BeforeValidator(parse_stages), AfterValidator(check_frames)] = Field(
        description="Pixels of each stage's preview, coarse to fine: height × width, or frames × height × width."
    )
    flow: FlowSettings = _defaults(FlowSettings)
    specialisation: SpecialisationSettings = _defaults(SpecialisationSettings)
    training: TrainingSettings = _defaults(TrainingSettings)
    logging: LoggingSettings = _defaults(LoggingSettings)
    sampling: SamplingSettings = _defaults(SamplingSettings)
    seed: int = Field(0, ge=0, description="Seed of everything that is random.")
    device: Annotated[str, AfterValidator(check_device)] = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    workers: int = Field(0, ge=0, description="Processes that load data; 0 loads in the main one.")
    output: str | None = Field(None, description="Folder of the run; null for runs/<time>-<name>.")
    name: str | None = Field(None, description="Name of the run, for its folder.")
    init_from: Annotated[str, AfterValidator(os.path.abspath)] | None = Field(
        None, description="Run or exported model whose weights it begins with."
    )
    plugin_files: dict[str, RecordedFile] = Field(
        default_factory=dict, description="Plugin files in use, by namespace: written by the program, for the record."
    )

    def component(self, kind: str) -> ComponentChoice:
        """The chosen component of a kind."""
        return cast(ComponentChoice, getattr(self, kind))
