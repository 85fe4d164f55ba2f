"""Generation: noise by image, stages in order, previews, guidance, the same bits whatever the batch size."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from dfm_core.assembly import Assembler
from dfm_core.composition import Composition, DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.errors import CompositionError, ConfigError, UsageError
from dfm_core.generation import Guidance, guided_velocity, initial_noise
from dfm_core.interfaces.backbone import Conditioning
from dfm_core.model import Model
from dfm_core.plugins.registry import default_registry
from dfm_core.stage_space import StageStatistics
from dfm_core.stages import StageLayout, Stages, StageShape


def make_model(
    stages: tuple[int, ...] = (8, 16), classes: int = 3, width: int = 32, backbone: str = "dit", **values: object
) -> Model:
    """A small transformer with random weights (adaLN-zero alone would predict zero everywhere)."""
    options = {"depth": 2, "width": width, "heads": 2}
    registry = default_registry()
    choices = {"stages": list(stages), "backbone": {"name": backbone, "options": options}, **values}
    config = resolve_config(ConfigRequest(values=choices), registry).config
    assembler = Assembler(config, registry)
    statistics = StageStatistics((0.5,) * len(stages), (0.5,) * len(stages), 1)
    names = tuple("abcdefgh"[:classes])
    composition = assembler.compose(DataDescription(3, names), statistics, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for parameter in composition.model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return Model(composition, assembler)


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


def test_noise_of_an_image_depends_on_seed_and_index_only() -> None:
    layout = StageLayout((StageShape((4, 4), (3, 4, 4)), StageShape((8, 8), (3, 8, 8))))
    five = initial_noise(layout, 1, range(5), torch.device("cpu"))
    two = initial_noise(layout, 1, [3, 4], torch.device("cpu"))
    assert all(torch.equal(a[3:], b) for a, b in zip(five, two, strict=True))
    other = initial_noise(layout, 2, [3], torch.device("cpu"))
    assert not torch.equal(other[0], two[0][:1])
    assert not torch.equal(five[0][0], five[0][1])


@pytest.mark.parametrize(
    ("backbone", "width"), [("dit", 32), ("dit", 80), ("dit", 256), ("dit_growing", 80), ("dit_experts", 80)]
)
def test_image_bits_do_not_depend_on_the_batch_size(backbone: str, width: int) -> None:
    model = make_model(backbone=backbone, width=width)
    want = model.generate(6, seed=4, cfg=2.0, batch_size=6)
    for size in (1, 2, 3, 4, 5):
        assert torch.equal(model.generate(6, seed=4, cfg=2.0, batch_size=size), want), size
    assert torch.equal(model.generate(2, seed=4, cfg=2.0), want[:2])
    assert not torch.equal(model.generate(6, seed=5, cfg=2.0), want)
    assert want.abs().max() <= 1


def test_stages_come_one_after_the_other_and_previews_grow() -> None:
    steps = list(make_model((4, 8, 16)).with_schedule(steps=(4, 3, 2)).stream(2))
    assert [s.num_visible for s in steps] == [1] * 4 + [2] * 3 + [3] * 2
    assert [s.step for s in steps if s.stage_finished] == [4, 7, 9]
    assert [tuple(s.preview().shape) for s in steps if s.stage_finished] == [(2, 3, 4, 4), (2, 3, 8, 8), (2, 3, 16, 16)]
    for before, after in pairwise(steps):
        for stage in range(3):
            if before.t[stage] == after.t[stage]:
                assert torch.equal(before.stages[stage], after.stages[stage])
    assert steps[-1].t.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("solver", "calls"), [("euler", 1), ("heun", 2), ("midpoint", 2), ("ab2", 1)])
def test_every_solver_calls_the_network_as_often_as_it_declares(model: Model, solver: str, calls: int) -> None:
    short = model.with_schedule(steps=(3, 2))
    network = short.composition.model
    count = []
    handle = network.register_forward_hook(lambda *_: count.append(1))
    images = short.generate(4, solver=solver)
    handle.remove()
    assert len(count) == 5 * calls
    assert torch.isfinite(images).all()


class LabelField(nn.Module):
    """A velocity that is the label: what guidance does to it is arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("stage_sigmas", torch.ones(2))
        self.batches: list[int] = []

    def forward(self, noisy: Stages, t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        self.batches.append(len(noisy[0]))
        value = conditioning.label.float()[:, None, None, None]
        return tuple(value.expand_as(x) for x in noisy)


def test_guidance_extrapolates_from_no_label_within_its_interval() -> None:
    field = LabelField()
    stages = (torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 2, 2))
    labels, null = torch.tensor([1, 3]), 4
    velocity = guided_velocity(field, labels, null, Guidance(2.0, (0.2, 0.8)))
    visible = torch.tensor([True, True])
    guided = velocity(stages, torch.tensor([0.5, 0.1], dtype=torch.float64), visible)
    assert guided[0].flatten().tolist() == [4 + 2 * (1 - 4), 4 + 2 * (3 - 4)]  # inside the interval
    assert guided[1][:, 0, 0, 0].tolist() == [1, 3]  # outside: the label's own velocity
    velocity(stages, torch.tensor([0.9, 0.1], dtype=torch.float64), visible)
    assert field.batches == [4, 2]  # no second half where no stage is guided
    unconditional = guided_velocity(field, labels, null, Guidance(0.0))
    assert unconditional(stages, torch.tensor([0.5, 0.5], dtype=torch.float64), visible)[0].flatten().tolist() == [4, 4]


@pytest.mark.parametrize("interval", [(0.8, 0.2), (-0.1, 0.5), (0.5, 1.1), (0.5,), (0.1, 0.2, 0.3), (float("nan"), 1)])
def test_an_interval_that_is_none_is_refused(interval: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r"cfg_interval.*expected the two ends of a range of t, 0 <= low <= high <= 1"):
        make_model().stream(1, cfg=2.0, cfg_interval=interval)
    with pytest.raises(ConfigError, match="cfg_interval"):
        resolve_config(ConfigRequest(values={"sampling": {"cfg_interval": list(interval)}}))


def test_the_interval_of_a_call_takes_the_place_of_the_runs() -> None:
    model = make_model()
    whole, same, never = (model.generate(1, cfg=3.0, cfg_interval=each) for each in (None, (0, 1), (0.999, 0.999)))
    assert torch.equal(whole, same)
    assert torch.equal(never, model.generate(1, cfg=1.0))
    assert not torch.equal(whole, never)


def test_guidance_without_labels_is_refused() -> None:
    unlabelled = make_model(classes=0)
    with pytest.raises(CompositionError, match="needs labels"):
        next(unlabelled.stream(1, cfg=2.0))
    with pytest.raises(UsageError, match="unlabelled"):
        unlabelled.stream(1, labels=[0])
    assert unlabelled.with_schedule(steps=(1, 1)).generate(1).shape == (1, 3, 16, 16)


def test_labels_are_taken_in_turn_by_name_or_number(model: Model) -> None:
    assert model.labels_for(5) == [0, 1, 2, 0, 1]
    assert model.labels_for(3, ["c", 0]) == [2, 0, 2]
    with pytest.raises(UsageError, match="expected 0 to 2"):
        model.labels_for(1, [3])
    with pytest.raises(UsageError, match="expected a class name or number"):
        model.labels_for(1, ["dog"])


def test_what_training_never_saw_is_not_generated() -> None:
    with pytest.raises(CompositionError, match=r"tied.*simultaneous"):
        make_model(timestep_sampler="tied")
    assert make_model(timestep_sampler="tied", stage_schedule="simultaneous").generate(1).shape == (1, 3, 16, 16)


def test_decompose_and_recompose_through_the_model(model: Model) -> None:
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    stages = model.decompose(images)
    assert [tuple(s.shape) for s in stages] == [(2, 3, 8, 8), (2, 3, 16, 16)]
    torch.testing.assert_close(model.recompose(stages), images, atol=1e-5, rtol=0)
    assert model.recompose(stages[:1]).shape == (2, 3, 8, 8)


def test_composition_knows_its_parts(model: Model) -> None:
    composition: Composition = model.composition
    assert composition.num_stages == 2
    assert composition.null_label == 3
