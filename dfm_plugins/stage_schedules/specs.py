"""Stage schedules that ship: names, options and addresses. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from dfm_core.plugins import Options, StageScheduleSpec


def listed(value: object) -> object:
    """Read what YAML and the command line give for a list: 30 -> (30,), "30,10" -> ("30", "10")."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return (value,) if isinstance(value, int | float) else value


def split(value: object) -> object:
    """Split a text with commas, "0.5,0.2" -> ("0.5", "0.2"); anything else stays."""
    return listed(value) if isinstance(value, str) and "," in value else value


def unlisted(value: object) -> object:
    """Take the value out of a list of one, which is how `--steps 40` arrives."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


StepCount = Annotated[int, Field(ge=1)]
Threshold = Annotated[float, Field(gt=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Shift = Annotated[
    Literal["auto", "linear"] | PositiveFloat | tuple[PositiveFloat, ...],
    BeforeValidator(split),
]

NumberedShift = Annotated[
    Literal["linear"] | PositiveFloat | tuple[PositiveFloat, ...],
    BeforeValidator(split),
]


class ProgressiveOptions(Options):
    """Options of the progressive schedule."""

    steps: Annotated[tuple[StepCount, ...] | None, BeforeValidator(listed)] = Field(
        None, description="Solver steps of each stage, coarse to fine; by default 30, 10, 10, …, or 40 for one stage."
    )
    thresholds: Annotated[tuple[Threshold, ...] | None, BeforeValidator(listed)] = Field(
        None,
        description="t in (0, 1] at which a stage hands over to the next, for each stage but the last, or one for "
        "all; by default 0.9.",
    )
    shift: Shift = Field(
        "auto",
        description="Spacing of each stage: auto (from its root mean square), linear (1), one number for all stages "
        "or one for each; below 1 the steps are finer near the data.",
    )
    first_stages: StepCount | None = Field(
        None, description="Generate the first so many stages only, for a run that trains no others; null: all."
    )

    later_stages: Literal["hidden", "shown"] = Field(
        "hidden",
        description="What the network sees of stages whose turn has not come: nothing, or their noise, as the sampler "
        "has shown it; then there is a preview at the end only.",
    )


class ConsecutiveOptions(Options):
    """Options of the consecutive schedule."""

    steps: Annotated[tuple[StepCount, ...] | None, BeforeValidator(listed)] = Field(
        None, description="Solver steps of each stage, coarse to fine; by default 40 in all, spread evenly."
    )
    # No `auto`: it is made for a stage that is noise alone at 0 and data alone at 1. A stage of Pyramidal Flow is
    # neither, and its root mean square says nothing of the fine detail that it adds.
    shift: NumberedShift = Field(
        "linear",
        description="Spacing of each stage: linear (1), one number for all stages or one for each; below 1 the steps "
        "are finer where the stage ends.",
    )


class SimultaneousOptions(Options):
    """Options of the simultaneous schedule."""

    steps: Annotated[StepCount | None, BeforeValidator(unlisted)] = Field(
        None, description="Solver steps, the same for all stages; by default 40."
    )
    # Linear, since `auto` would take the stages off the diagonal that a sampler with one t for all stages trains.
    shift: Shift = Field(
        "linear",
        description="Spacing of each stage: linear (1, all stages at the same t), auto (from its root mean square), "
        "one number for all stages or one for each.",
    )


PAPER = "Haji-Ali et al. 2025, Improving Progressive Generation with Decomposable Flow Matching"

SPECS = [
    StageScheduleSpec(
        name="progressive",
        summary="One stage after the other: each starts when the one before has reached its threshold.",
        factory="dfm_plugins.stage_schedules.progressive:ProgressiveSchedule",
        options=ProgressiveOptions,
        reference=f"{PAPER}, figure 2a; the spacing of each stage is this framework's",
        progressive={"later_stages": "hidden"},
    ),
    StageScheduleSpec(
        name="consecutive",
        summary="One stage at a time, each from 0 to 1; goes with the consecutive sampler.",
        factory="dfm_plugins.stage_schedules.consecutive:ConsecutiveSchedule",
        options=ConsecutiveOptions,
        reference="Jin et al. 2024, Pyramidal Flow Matching",
    ),
    StageScheduleSpec(
        name="simultaneous",
        summary="All stages together from noise to data.",
        factory="dfm_plugins.stage_schedules.simultaneous:SimultaneousSchedule",
        options=SimultaneousOptions,
        reference=f"{PAPER}, table 1b",
    ),
]
