"""Each decomposition × sampler × schedule, trained, then sampled with each schedule × solver: it runs or is refused.

Names, variants and solvers come from the registry and from core's table: a new component enters by itself.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel, ValidationError

from dfm_core.assembly import Assembler, with_objects
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.errors import CompositionError, ConfigError, StageSizeError
from dfm_core.interfaces.dataset import Dataset, DatasetFacts, Sample
from dfm_core.model import Model, load
from dfm_core.plugins import Options
from dfm_core.plugins.registry import Registry
from dfm_core.runs.start import start_run
from dfm_core.solvers import SOLVERS

REGISTRY = Registry.discover({})
SCHEDULES = REGISTRY.names("stage_schedule")
STAGES = {1: ["16"], 2: ["8", "16"], 3: ["4", "8", "16"]}
ANY = "any"
OF_CLIPS = "time_grid"
"""An option without effect on the images of the matrix."""


class Cell(NamedTuple):
    """What is trained, and with which schedule."""

    decomposition: str
    options: dict[str, object]
    sampler: str
    trained_with: str
    num_stages: int

    @property
    def title(self) -> str:
        options = "".join(f" {key}={value}" for key, value in self.options.items())
        return f"{self.decomposition}{options}, {self.sampler}, {self.trained_with}, {self.num_stages}"


class Refusal(NamedTuple):
    """What is refused on purpose; ANY stands for all."""

    decomposition: str
    sampler: str
    trained_with: str
    schedule: str
    num_stages: tuple[int, ...]
    message: str

    def covers(self, cell: Cell, schedule: str) -> bool:
        asked = (cell.decomposition, cell.sampler, cell.trained_with, schedule)
        matches = all(own in (ANY, other) for own, other in zip(self, asked, strict=False))
        return matches and cell.num_stages in self.num_stages


UNSEEN = (
    r"schedule 'progressive' shows the network stages 1(; 1\+2)? together, which timestep sampler '{}' never draws in "
    r"training; schedules that fit: simultaneous "
)
NOT_TOGETHER = (
    r"schedule '{}' shows the network stages .* together, which timestep sampler '{}' never draws in training"
)
REFUSED = (
    Refusal("identity", ANY, ANY, ANY, (2, 3), "identity has one stage, got .*: use the one stage 16, or another"),
    Refusal(ANY, "tied", ANY, "progressive", (2, 3), UNSEEN.format("tied")),
    # It draws from the grid that it was built for, and there all stages were always together.
    Refusal(ANY, "trajectory", "simultaneous", "progressive", (2, 3), UNSEEN.format("trajectory")),
    *(
        Refusal(ANY, "consecutive", ANY, schedule, (2, 3), NOT_TOGETHER.format(schedule, "consecutive"))
        for schedule in ("progressive", "simultaneous")
    ),
    *(
        Refusal(ANY, "trajectory", "consecutive", schedule, (2, 3), NOT_TOGETHER.format(schedule, "trajectory"))
        for schedule in ("progressive", "simultaneous")
    ),
    *(
        Refusal(ANY, sampler, ANY, "consecutive", (2, 3), NOT_TOGETHER.format("consecutive", sampler))
        for sampler in ("progressive", "tied", "uniform")
    ),
    *(
        Refusal(ANY, "trajectory", trained, "consecutive", (2, 3), NOT_TOGETHER.format("consecutive", "trajectory"))
        for trained in ("progressive", "simultaneous")
    ),
)
"""The whole list: what is refused without being here fails the test, and so does what is here and runs."""


def closed_values(annotation: Any) -> list[object]:
    """The values that an option can have, where they are a list; None is left out."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in closed_values(part)]


def variants(model: type[BaseModel]) -> list[dict[str, object]]:
    """The defaults, and each value of each closed option with as few other options changed as the model demands."""
    defaults = model().model_dump()
    choices = {
        name: [value for value in closed_values(info.annotation) if value != defaults[name]]
        for name, info in model.model_fields.items()
        if name != OF_CLIPS
    }
    found: list[dict[str, object]] = [{}]
    for name, values in choices.items():
        found += [{name: value, **rest} for value in values for rest in [least_company(model, name, value, choices)]]
    return found


def least_company(
    model: type[BaseModel], name: str, value: object, choices: Mapping[str, list[object]]
) -> dict[str, object]:
    """The fewest other options with which an option may have this value."""
    others = [(key, other) for key, values in choices.items() if key != name for other in values]
    for count in range(len(choices)):
        for rest in map(dict, itertools.combinations(others, count)):
            try:
                model.model_validate({name: value, **rest})
            except ValidationError:
                continue
            return rest
    raise AssertionError(f"{model.__name__}: no options go with {name}={value!r}")


def all_cells() -> list[Cell]:
    """Every variant with two stages; the defaults with one and three, and with stages that are generated alone, too."""
    return [
        Cell(name, options, sampler, schedule, num_stages)
        for name in REGISTRY.names("decomposition")
        for options in variants(REGISTRY.get("decomposition", name).spec.options)
        for sampler in REGISTRY.names("timestep_sampler")
        for schedule in SCHEDULES
        for num_stages in ((2,) if options else STAGES)
        if not options or "consecutive" not in (sampler, schedule)
    ]


CELLS = all_cells()


class Noise(Dataset):
    """Eight images of noise in two classes, made once."""

    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    @property
    def classes(self) -> tuple[str, ...]:
        return ("a", "b")

    def __len__(self) -> int:
        return len(self.images) if self.facts.split == "train" else 0

    def load(self, index: int, epoch: int) -> Sample:
        return {"image": self.images[index], "label": index % 2}


def noise(options: Mapping[str, object], facts: DatasetFacts) -> Noise:
    return Noise(Options(), facts)


OBJECTS = {"dataset": noise}


def train(cell: Cell, output: Path) -> Model:
    """Three steps of the real trainer; the weights are their own average, so that a reloaded model is the same."""
    values: dict[str, Any] = {
        "stages": STAGES[cell.num_stages],
        "decomposition": {"name": cell.decomposition, "options": cell.options},
        "timestep_sampler": cell.sampler,
        "stage_schedule": cell.trained_with,
        "backbone": {"name": "dit", "options": {"depth": 1, "width": 16, "heads": 1, "token_grid": 4}},
        "flow": {"statistics_images": 4},
        "training": {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0, "ema_decay": 0.0},
        "logging": {"tensorboard": False, "sample_every": 0, "checkpoint_every": 0, "validation_every": 0},
        "device": "cpu",
        "output": str(output),
    }
    config = with_objects(resolve_config(ConfigRequest(values=values), REGISTRY).config, OBJECTS)
    return Model(start_run(config, REGISTRY, objects=OBJECTS).composition, Assembler(config, REGISTRY, OBJECTS))


def shortened(model: Model, schedule: str) -> Model:
    """The model with a schedule of two steps a stage, where its steps can be said in one of the usual forms."""
    for steps in ((2,) * model.composition.num_stages, 2 * model.composition.num_stages):
        try:
            return model.with_schedule(schedule, steps=steps)
        except ConfigError:
            continue
    return model.with_schedule(schedule)


def check_samples(model: Model, solver: str) -> None:
    """Images and previews are finite and of the declared sizes."""
    layout = model.composition.layout
    steps = list(model.stream(2, solver=solver))
    for step in steps:
        if step.stage_finished:
            preview = step.preview()
            assert preview.shape == (2, 3, *layout[step.num_visible - 1].resolution)
            assert torch.isfinite(preview).all()
    assert steps[-1].preview().shape == (2, 3, 16, 16)
    assert steps[-1].t.tolist() == [1.0] * len(layout)


def check_outcome(cell: Cell, schedule: str, error: Exception | None = None) -> None:
    """What was refused is on the list with its message, and what ran is not."""
    expected = [refusal.message for refusal in REFUSED if refusal.covers(cell, schedule)]
    if error is None:
        assert not expected, f"{cell.title}, then {schedule}: runs now, take it off the list"
        return
    assert expected, f"{cell.title}, then {schedule}: refused, {error}"
    assert re.search(expected[0], str(error)), error


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.title)
def test_it_runs_or_is_refused(cell: Cell, tmp_path: Path) -> None:
    try:
        model = train(cell, tmp_path / "run")
    except (CompositionError, StageSizeError) as error:
        check_outcome(cell, cell.trained_with, error)
        return
    for schedule in SCHEDULES:
        try:
            short = shortened(model, schedule)
        except CompositionError as error:
            check_outcome(cell, schedule, error)
            continue
        check_outcome(cell, schedule)
        # A solver sees tensors: the options of a decomposition need no second one.
        for solver in list(SOLVERS)[: 1 if cell.options else None]:
            check_samples(short, solver)


def test_a_model_from_disk_gives_the_same_samples(tmp_path: Path) -> None:
    cell = Cell("laplacian", {}, "progressive", "progressive", 2)
    trained, loaded = train(cell, tmp_path / "run"), load(tmp_path / "run", device="cpu", objects=OBJECTS)
    for schedule in SCHEDULES:
        if any(refusal.covers(cell, schedule) for refusal in REFUSED):
            continue
        first, second = shortened(trained, schedule), shortened(loaded, schedule)
        for solver in SOLVERS:
            assert torch.equal(first.generate(2, solver=solver), second.generate(2, solver=solver))


def test_the_list_of_refusals_has_no_dead_rows() -> None:
    for refusal in REFUSED:
        assert any(refusal.covers(cell, schedule) for cell in CELLS for schedule in SCHEDULES), refusal


def test_variants_cover_every_value_of_the_closed_options() -> None:
    """Also those that another option must go with."""
    for name in REGISTRY.names("decomposition"):
        model = REGISTRY.get("decomposition", name).spec.options
        built = [model.model_validate(options) for options in variants(model)]
        for option, info in model.model_fields.items():
            assert option == OF_CLIPS or set(closed_values(info.annotation)) <= {
                getattr(options, option) for options in built
            }
    block = variants(REGISTRY.get("decomposition", "dct").spec.options)
    assert block == [{}, {"block": 4}, {"block": 8}, {"domain": "coefficients", "block": 4}]
