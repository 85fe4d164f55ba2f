"""Timestep samplers that ship: names, options and addresses. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from dfm_core.plugins import Options, TimestepSamplerSpec


def split(value: object) -> object:
    """Split a text with commas, "0.7,0.3" -> ("0.7", "0.3"); anything else stays."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) and "," in value else value


Probability = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]
StageProbs = Annotated[Probability | tuple[Probability, ...], BeforeValidator(split)]
PerStageLocation = Annotated[Finite | tuple[Finite, ...], BeforeValidator(split)]
PerStageScale = Annotated[Scale | tuple[Scale, ...], BeforeValidator(split)]


class ProgressiveOptions(Options):
    """Options of the progressive sampler. Locations and scales are of t's logit."""

    stage_probs: StageProbs = Field(
        0.9,
        description="Probability that 1, 2, … stages are active, adding up to 1; one number is that of the first "
        "stage alone, the rest being equal.",
    )
    current_location: PerStageLocation = Field(
        0.0, description="Mean of the logit of t of the current stage; one for all stages or one for each."
    )
    current_scale: PerStageScale = Field(
        1.0, description="Deviation of the logit of t of the current stage; one for all stages or one for each."
    )
    earlier_location: PerStageLocation = Field(
        1.5, description="Mean of the logit of t of the earlier stages: higher is less noisy; one for all or for each."
    )
    earlier_scale: PerStageScale = Field(
        1.0, description="Deviation of the logit of t of the earlier stages; one for all stages or one for each."
    )
    draw: Literal["sample", "batch"] = Field(
        "sample", description="Draw the number of active stages for each sample, or once for the whole batch."
    )
    earlier_stages: Literal["trained", "given"] = Field(
        "trained",
        description="given: earlier stages condition the current one and have no loss; those that are never current "
        "are known to the weights with which the run begins (--init-from).",
    )

    later_stages: Literal["hidden", "shown"] = Field(
        "hidden",
        description="What the network sees of stages whose turn has not come: nothing, or their noise (the paper's "
        "ablation; the schedule needs the same).",
    )


class TiedOptions(Options):
    """Options of the tied sampler."""

    location: Finite = Field(0.0, description="Mean of the logit of t.")
    scale: Scale = Field(1.0, description="Deviation of the logit of t.")


class ConsecutiveOptions(Options):
    """Options of the consecutive sampler."""

    stage_probs: Annotated[tuple[Probability, ...] | None, BeforeValidator(split)] = Field(
        None,
        description="Probability of each stage, adding up to 1; null: 1:1 for two stages, 1:2:1 for three, the first "
        "and the last half as often as the others.",
    )


class TrajectoryOptions(Options):
    """Options of the trajectory sampler."""

    stage_probs: StageProbs = Field(
        0.9,
        description="Probability of each phase of the schedule, adding up to 1; one number is that of the first phase, "
        "the rest being equal.",
    )
    jitter: Scale = Field(0.5, description="Deviation that is added to the logit of t of the earlier stages.")


PAPER = "Haji-Ali et al. 2025, Improving Progressive Generation with Decomposable Flow Matching"

SPECS = [
    TimestepSamplerSpec(
        name="progressive",
        summary="A logit-normal t for the current stage, a cleaner one for each earlier stage.",
        factory="dfm_plugins.timestep_samplers.progressive:ProgressiveSampler",
        options=ProgressiveOptions,
        reference=f"{PAPER}, algorithm 1",
        earlier_cleaner=True,
    ),
    TimestepSamplerSpec(
        name="tied",
        summary="All stages active at one logit-normal t; goes with the simultaneous schedule.",
        factory="dfm_plugins.timestep_samplers.tied:TiedSampler",
        options=TiedOptions,
        reference=f"{PAPER}, table 1b",
    ),
    TimestepSamplerSpec(
        name="uniform",
        summary="Any number of active stages, each at a uniform t of its own.",
        factory="dfm_plugins.timestep_samplers.uniform:UniformSampler",
        reference="none: the least that a sampler can assume",
    ),
    TimestepSamplerSpec(
        name="consecutive",
        summary="One stage at a time, at a uniform t; goes with the consecutive schedule.",
        factory="dfm_plugins.timestep_samplers.consecutive:ConsecutiveSampler",
        options=ConsecutiveOptions,
        reference="Jin et al. 2024, Pyramidal Flow Matching; paper appendix B",
    ),
    TimestepSamplerSpec(
        name="trajectory",
        summary="Points of the generation schedule, with a jitter on the earlier stages.",
        factory="dfm_plugins.timestep_samplers.trajectory:TrajectorySampler",
        options=TrajectoryOptions,
        reference="this framework: trains where generation goes",
        earlier_cleaner=True,
    ),
]
