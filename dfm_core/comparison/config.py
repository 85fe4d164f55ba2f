"""The file of a comparison: what its variants share, in what they differ, and how they are measured. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from dfm_core.config.run_config import expand_choice
from dfm_core.config.settings import ComponentChoice, Section
from dfm_core.config.yaml_text import read_mapping
from dfm_core.errors import ConfigError, UsageError, suggest
from dfm_core.plugins.validation import validate

NAME = re.compile(r"[^./\\\s][^/\\]{0,99}")
"""Variants are folders."""
OWN = {
    "seed": "the comparison's `seeds` say it",
    "output": "runs lie in the comparison's folder",
    "name": "runs lie in the comparison's folder",
    "training.max_steps": "it follows from the budget",
    "training.max_minutes": "it follows from the budget",
}
"""Keys of a configuration that a variant may not set, and why."""


def listed(value: object) -> object:
    """Turn one value into a list of it."""
    return [value] if isinstance(value, int | float | str | Mapping) else value


def as_seeds(value: object) -> object:
    """Raise ValueError for a number alone: it might be meant as how many seeds there are."""
    if isinstance(value, int):
        raise ValueError(f"expected a list of seeds such as [0, 1, 2], got {value}")
    return value


def distinct(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Raise ValueError for an empty list, or for one that holds a value twice; None stays."""
    if values is None:
        return None
    names = [value.name if isinstance(value, ComponentChoice) else f"{value:g}" for value in values]
    if not values or len(set(names)) < len(names):
        shown = f"[{', '.join(names)}]"
        raise ValueError(f"expected at least one value, and each once (numbers in six digits), got {shown}")
    return values


_Metric = Annotated[ComponentChoice, BeforeValidator(expand_choice)]
_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Seed = Annotated[int, Field(ge=0)]


class EvaluationSettings(Section):
    """How models are measured, on the way and at the end."""

    metrics: Annotated[tuple[_Metric, ...] | None, BeforeValidator(listed), AfterValidator(distinct)] = Field(
        None,
        description="Metrics, by name or as {name: …, options: …}; the first chooses learning rates. null: those that "
        "are measured by default.",
    )
    num: int = Field(1000, ge=2, description="Samples of each model.")
    points: int = Field(4, ge=1, description="Times that a model is measured, evenly over its compute.")
    cfg: Annotated[tuple[_Weight, ...] | None, BeforeValidator(listed), AfterValidator(distinct)] = Field(
        None, description="Guidance weights, each measured; null: every variant's own sampling.cfg."
    )
    reference_num: int = Field(10_000, ge=4, description="Most real images that samples are measured against.")
    images: str | None = Field(
        None,
        description="Folder of the real images or clips, needed where the data is stored latents; null: the data that "
        "the reference trains on.",
    )
    split: Literal["train", "validation"] = Field("train", description="Part of the data that holds the real images.")
    batch_size: int = Field(64, ge=1, description="Images generated at once.")


class BudgetSettings(Section):
    """The compute of every variant: one of the two, or neither for the reference's training.max_steps."""

    steps: int | None = Field(None, ge=1, description="As many steps as these are of the reference variant.")
    flops: float | None = Field(None, gt=0, allow_inf_nan=False, description="FLOPs of forward and backward.")


class RateSettings(Section):
    """A grid of learning rates, for every variant, on one seed."""

    values: Annotated[tuple[_Rate, ...], AfterValidator(distinct)] = Field(description="The rates.")
    seed: int | None = Field(None, ge=0, description="Seed that they are tried on; null: the first of `seeds`.")


class ComparisonConfig(Section):
    """A comparison. `base`, a variant and each of its `runs` hold keys of a configuration, as files of `--config` do.

    Exactly one of variants and sweep.
    """

    base: dict[str, Any] = Field(default_factory=dict, description="What all variants share.")
    variants: dict[str, dict[str, Any] | None] | None = Field(
        None, description="Name -> in what it differs; `runs`: several trainings in a row, each with its `share`."
    )
    sweep: dict[str, list[Any] | dict[str, Any]] | None = Field(
        None, description="Key -> its values, as a list or as name -> value: a variant each."
    )
    together: bool = Field(False, description="Take the n-th values of all keys of a sweep together: no grid.")
    reference: str | None = Field(None, description="Variant that the others are compared with; null: the first.")
    seeds: Annotated[tuple[_Seed, ...], BeforeValidator(as_seeds), AfterValidator(distinct)] = Field(
        (0,), description="Each variant is trained with each: same data order, same noise."
    )
    budget: BudgetSettings = Field(default_factory=lambda: BudgetSettings.model_validate({}))
    evaluation: EvaluationSettings = Field(default_factory=lambda: EvaluationSettings.model_validate({}))
    learning_rates: RateSettings | None = Field(None, description="Choose each variant's learning rate first.")
    model_calls: Literal["equal", "any"] = Field(
        "equal", description="equal: all variants call the network as often for an image; any: they need not."
    )

    def levels(self) -> dict[str, dict[str, Any]]:
        """Name of each variant -> its own keys. Raises ConfigError for what is no variant, or not theirs to say."""
        for key in self.base:
            if key in OWN:
                raise ConfigError(f"base: {key} is not a variant's to say: {OWN[key]}")
        if (self.variants is None) == (self.sweep is None):
            raise ConfigError("expected either `variants` or `sweep`, name -> keys of a configuration")
        if self.sweep is not None:
            from dfm_core.comparison.sweep import sweep_levels

            levels = sweep_levels(self.sweep, self.together)
            self._check_weights(levels)
        else:
            levels = {name: dict(values or {}) for name, values in (self.variants or {}).items()}
        if not levels:
            raise ConfigError("variants: expected at least one, got none")
        for name, values in levels.items():
            if not NAME.fullmatch(name):
                raise ConfigError(f"variant {name!r}: expected a name that a folder can have, without / and \\")
            check_keys(name, values)
        return levels

    def _check_weights(self, levels: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise ConfigError for a sweep of guidance weights that evaluation.cfg would hide."""
        sections = [level.get("sampling") for level in levels.values()]
        swept = any("sampling.cfg" in level for level in levels.values()) or any(
            "cfg" in section for section in sections if isinstance(section, Mapping)
        )
        if swept and self.evaluation.cfg is not None:
            raise ConfigError(
                "sweep: sampling.cfg is swept, and evaluation.cfg (--cfg) would measure every variant with its own "
                "weights instead; leave one of them out"
            )

    def reference_name(self) -> str:
        """The variant that the others are compared with. Raises ConfigError for one that there is not."""
        names = list(self.levels())
        if self.reference is None:
            return names[0]
        if self.reference not in names:
            raise ConfigError(
                f"reference: expected one of {', '.join(names)}, got {self.reference!r}."
                f"{suggest(self.reference, names)}"
            )
        return self.reference


def check_keys(name: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigError for keys of a configuration that are the comparison's own."""
    training = values.get("training")
    inner = [f"training.{key}" for key in training] if isinstance(training, Mapping) else []
    for key in (*values, *inner):
        if key in OWN:
            raise ConfigError(f"variant {name!r}: {key} is not a variant's to say: {OWN[key]}")
    runs = values.get("runs") or []
    if not isinstance(runs, list):
        raise ConfigError(f"variant {name!r}: runs: expected a list of trainings, each with its share, got {runs!r}")
    for number, run in enumerate(runs, 1):
        if not isinstance(run, Mapping):
            raise ConfigError(f"variant {name!r}, run {number}: expected keys and values, got {run!r}")
        check_keys(f"{name}, run {number}", run)


def read_comparison(path: Path) -> ComparisonConfig:
    """Read the file of a comparison. Raises ConfigError for what is wrong in it, UsageError if there is none."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file; expected the YAML file of a comparison (see docs/compare.md)")
    origin = f"file {path}"
    return validate(ComparisonConfig, read_mapping(path, origin), origins=dict.fromkeys(("base", "variants"), origin))
