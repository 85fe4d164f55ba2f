"""The sections of a run's configuration that core itself reads. Components bring their own options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """Base of every section: typed, immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ComponentChoice(Section):
    """Which component of a kind, and its options (validated by the component's own model)."""

    name: str = Field(description="Bare name of a built-in component, or namespace/name of a plugin's.")
    options: dict[str, object] = Field(default_factory=dict, description="The component's options.")


def split_names(value: object) -> object:
    """Turn names (or numbers) in one text, separated by commas, into a list."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Share = Annotated[float, Field(gt=0, le=1)]


def one_is_whole(shares: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Refuse shares of which none is 1: the rest of every batch would be loaded for nothing."""
    if shares is not None and max(shares, default=0.0) != 1:
        raise ValueError(
            f"expected shares of which the largest is 1, got {list(shares)}; change the batch size instead"
        )
    return shares


class FlowSettings(Section):
    """How the flow sees the stages."""

    preconditioning: Literal["edm", "unit", "none"] = Field(
        "edm", description="Scaling of inputs and outputs per stage."
    )
    standardize: bool = Field(
        False,
        description="Divide each stage by its standard deviation over the data; where the path mixes the stages, all "
        "of them by that of the finest.",
    )
    statistics_images: int = Field(
        256,
        ge=1,
        description="Images from which the stage statistics are estimated; large ones only up to 64 megapixels in all, "
        "but at least 64.",
    )
    label_dropout: float = Field(0.1, ge=0, le=1, description="Share of labels dropped in training, for guidance.")
    batch_shares: Annotated[tuple[Share, ...] | None, BeforeValidator(split_names), AfterValidator(one_is_whole)] = (
        Field(
            None,
            description="Share of a batch that is trained while 1, 2, … stages are visible, the largest being 1 "
            "(training.batch_size); null for all. Needs one draw of the visible stages for a whole batch. The first "
            "rows are kept, of each process and each part of an accumulation alike, their number rounded up.",
        )
    )


class SpecialisationSettings(Section):
    """Weights of their own for the stage that is being generated; none while `groups` is empty. Paper, table 1d."""

    groups: Annotated[tuple[str, ...], BeforeValidator(split_names)] = Field(
        (), description="Which weights: groups that the backbone names (such as mlp, attention), or all."
    )
    form: Literal["average", "lora", "expert"] = Field(
        "average",
        description="What a stage runs with: the mean of a base and its own set, a base plus a product of low rank, "
        "or its own set alone.",
    )
    rank: int = Field(16, ge=1, description="Rank of the products of lora.")


class TrainingSettings(Section):
    """The optimisation; all but max_steps, max_minutes, checkpointing and parallel stays when a run is resumed."""

    max_steps: int = Field(10_000, ge=1, description="Optimiser steps in all.")
    max_minutes: float | None = Field(
        None, gt=0, description="Minutes after which a call stops, with a checkpoint; each --resume has as many."
    )
    batch_size: int = Field(16, ge=1, description="Images per optimiser step, over all processes and accumulation.")
    accumulation: int = Field(1, ge=1, description="Micro-batches per optimiser step.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up.")
    rate_schedule: Literal["constant", "cosine"] = Field("constant", description="Learning rate after the warm-up.")
    final_rate: float = Field(0.0, ge=0, le=1, description="Share of the peak rate at the end of the cosine.")
    betas: tuple[float, float] = Field((0.9, 0.99), description="AdamW's betas.")
    epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
    clip_norm: float | None = Field(1.0, gt=0, description="Largest gradient norm; null for none.")
    ema_decay: float = Field(
        0.9999, ge=0, lt=1, description="Decay of the averaged weights, after the ramp (1+n)/(10+n)."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on CUDA, else float32."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile.")
    checkpointing: Literal["none", "selective", "full"] = Field(
        "none",
        description="Activations computed again in the backward pass: all but those of matrix products and attention, "
        "or all.",
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="With several processes: a copy of the network in each, or a shard of it."
    )
    deterministic: bool = Field(False, description="Deterministic kernels on CUDA, for bit-for-bit claims there.")


class LoggingSettings(Section):
    """What a run writes and when; may change on resume. Zero switches an interval off."""

    log_every: int = Field(20, ge=1, description="Steps between lines of metrics.jsonl and TensorBoard.")
    checkpoint_every: int = Field(1000, ge=0, description="Steps between checkpoints.")
    async_checkpoints: bool = Field(True, description="Write the checkpoints on the way while training goes on.")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that are kept.")
    checkpoint_steps: tuple[int, ...] = Field((), description="Steps with a checkpoint besides, which is kept.")
    sample_every: int = Field(1000, ge=0, description="Steps between sample grids.")
    validation_every: int = Field(
        1000, ge=0, description="Steps between validation losses, where the data has a split."
    )
    validation_images: int = Field(512, ge=1, description="Validation images a loss is averaged over.")
    tensorboard: bool = Field(True, description="Write TensorBoard events.")
    sinks: Annotated[tuple[Literal["wandb", "trackio"], ...], BeforeValidator(split_names)] = Field(
        (), description="Where the numbers go besides: wandb, trackio (extra `log`)."
    )
    project: str = Field("dfm", min_length=1, description="Project of the run in the sinks.")
    run_name: str | None = Field(None, min_length=1, description="Name of the run in the sinks; null for its folder's.")
    utilisation: bool = Field(
        True,
        description="Count the network's FLOPs and measure the device's matmul rate at the start, to log the share.",
    )


def check_interval(interval: tuple[float, ...]) -> tuple[float, ...]:
    """Return a range of t as it is. Raises ValueError unless it is two numbers, 0 ≤ low ≤ high ≤ 1."""
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        numbers = ",".join(f"{number:g}" for number in interval)
        raise ValueError(f"expected the two ends of a range of t, 0 <= low <= high <= 1, like 0.2,0.8; got {numbers}")
    return interval


class SamplingSettings(Section):
    """Defaults of generation: the sample grids in training, and what `dfm sample` does without flags."""

    num: int = Field(16, ge=1, description="Images or clips.")
    batch_size: int = Field(16, ge=1, description="Images or clips generated at once.")
    solver: str = Field("euler", description="euler, heun, midpoint or ab2.")
    cfg: float = Field(1.0, ge=0, description="Guidance weight; 1 is none.")
    cfg_interval: Annotated[tuple[float, float], AfterValidator(check_interval)] = Field(
        (0.0, 1.0), description="Range of t in which guidance is applied."
    )
    frame_rate: float = Field(8.0, gt=0, le=240, description="Frames a second of the clips that are written.")
