"""Weights of a stage's own: what a sample meets, how they begin, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dfm_core as dfm
from dfm_core.config.settings import SpecialisationSettings
from dfm_core.conformance.backbone import (
    ignores_invisible_stages,
    keeps_samples_apart,
    keeps_shapes,
    leaves_inputs_alone,
    runs_in_bfloat16,
    trains_every_parameter,
    uses_no_global_randomness,
    works_at_other_sizes,
)
from dfm_core.conformance.backbone_examples import Example, example_for, prefixes, prepared
from dfm_core.errors import CompositionError
from dfm_core.interfaces.backbone import Backbone, BackboneFacts
from dfm_core.network_facts import training_flops
from dfm_core.specialisation import SpecialisedBackbone, specialised
from dfm_core.stages import StageLayout, StageShape
from dfm_plugins.backbones.dit import DiT
from dfm_plugins.backbones.dit_experts import DiTExperts
from dfm_plugins.backbones.pyramid_dit import PyramidDiT
from dfm_plugins.backbones.specs import DiTExpertsOptions, DiTOptions, PyramidDiTOptions

TINY = {"depth": 1, "width": 16, "heads": 2}
FACTS = BackboneFacts(StageLayout(tuple(StageShape((size, size), (3, size, size)) for size in (4, 8, 16))), 2)
FORMS = ("average", "lora", "expert")
GROUPS = ("modulation", "projection", "conditioning", "attention", "mlp")


def dit() -> DiT:
    torch.manual_seed(0)
    return DiT(DiTOptions(**TINY), FACTS)


def settings(*groups: str, form: str = "average", rank: int = 2) -> SpecialisationSettings:
    return SpecialisationSettings.model_validate({"groups": groups, "form": form, "rank": rank})


def wrapped(*groups: str, **changes: Any) -> SpecialisedBackbone:
    torch.manual_seed(1)
    backbone = specialised(dit(), settings(*groups, **changes))
    assert isinstance(backbone, SpecialisedBackbone)
    return backbone


def seen(example: Example, backbone: Backbone) -> list[Tensor]:
    """The velocities of visible stages; what stands elsewhere is ignored."""
    return [v[shown] for v, shown in zip(example.velocities(backbone), example.visible.unbind(1), strict=True)]


def count(backbone: Backbone) -> int:
    return sum(parameter.numel() for parameter in backbone.parameters())


def by_hand(state: dict[str, Tensor], stage: int, form: str) -> dict[str, Tensor]:
    """Weights of the plain network for one stage, from the trained tensors, by the formulas of the paper."""
    plain = {}
    for name, value in state.items():
        name = name.removeprefix("backbone.")
        if ".parametrizations." not in name:
            plain[name] = value
        elif name.endswith("original0"):
            parts = [state[f"backbone.{name[:-1]}{i}"] for i in range(3) if f"backbone.{name[:-1]}{i}" in state]
            made = {
                "average": lambda base, own: 0.5 * base + 0.5 * own[:, stage],
                "lora": lambda base, up, down: base + torch.einsum("or,ri->oi", up[:, stage], down[:, stage]),
                "expert": lambda own: own[:, stage],
            }[form](*parts)
            plain[name.replace(".parametrizations", "").removesuffix(".original0")] = made
    return plain


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [("mlp",), ("modulation", "conditioning"), ("all",)])
def test_a_sample_meets_the_weights_of_its_finest_stage(form: str, groups: tuple[str, ...]) -> None:
    network, generator = prepared(wrapped(*groups, form=form), 0, "test")
    example = example_for(network, prefixes(3)[[2, 0, 1, 0]], generator)
    velocities = example.velocities(network)
    for row, stage in enumerate([2, 0, 1, 0]):
        plain = dit().eval()
        plain.load_state_dict(by_hand(network.state_dict(), stage, form))
        for velocity, want in list(zip(velocities, example.velocities(plain), strict=True))[: stage + 1]:
            torch.testing.assert_close(velocity[row], want[row])
    assert not torch.equal(velocities[0][0], example.velocities(plain)[0][0])


@pytest.mark.parametrize("form", FORMS)
def test_every_stage_begins_with_the_network_as_it_was(form: str) -> None:
    plain = dit()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.normal_(std=0.1)
    example = example_for(plain, prefixes(3), torch.Generator().manual_seed(0))
    want = seen(example, plain)
    network = specialised(plain, settings("all", form=form))
    for velocity, other in zip(seen(example, network), want, strict=True):
        torch.testing.assert_close(velocity, other, rtol=1e-5, atol=1e-6)


def test_numbers_of_parameters() -> None:
    plain = dit()
    whole, groups = count(plain), plain.weight_groups()
    assert set(groups) == set(GROUPS)
    assert sum(p.numel() for group in groups.values() for p in group) == whole
    mlp = sum(p.numel() for p in groups["mlp"])
    assert count(wrapped("mlp")) == whole + 3 * mlp
    assert count(wrapped("mlp", form="expert")) == whole + 2 * mlp
    assert count(wrapped("all")) == 4 * whole
    assert count(wrapped("all", form="expert")) == 3 * whole
    # Two linear layers, 16 × 64 and 64 × 16; vectors are left alone.
    assert count(wrapped("mlp", form="lora", rank=2)) == whole + 3 * 2 * 2 * (16 + 64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "law",
    [
        *(keeps_shapes, trains_every_parameter, ignores_invisible_stages, keeps_samples_apart, leaves_inputs_alone),
        *(runs_in_bfloat16, works_at_other_sizes, uses_no_global_randomness),
    ],
)
def test_it_holds_the_laws_of_backbones(law: Any, form: str) -> None:
    law(wrapped("mlp", "projection", form=form))


@pytest.mark.parametrize("form", FORMS)
def test_the_state_says_everything(form: str) -> None:
    network, generator = prepared(wrapped("all", form=form), 0, "test")
    fresh = wrapped("all", form=form).eval()
    fresh.load_state_dict(network.state_dict())
    example = example_for(network, prefixes(3), generator)
    for one, other in zip(example.velocities(network), example.velocities(fresh), strict=True):
        assert torch.equal(one, other)


def test_every_set_has_a_gradient_whatever_is_visible() -> None:
    """Processes that share the training must have gradients of the same tensors."""
    network, generator = prepared(wrapped("all"), 0, "test")
    example = example_for(network, prefixes(3)[[0, 0]], generator)
    from dfm_core.interfaces.backbone import Conditioning

    sum(
        velocity.square().mean()
        for velocity in network(example.noisy_stages, example.t, example.visible, Conditioning(example.label))
    ).backward()
    own = network.backbone.blocks[0].mlp[0].parametrizations.weight.original1
    assert own.grad is not None
    assert own.grad[:, 0].any()
    assert not own.grad[:, 1:].any()


@pytest.mark.parametrize("form", FORMS)
def test_it_begins_with_the_weights_of_a_run_that_was_not_specialised(form: str) -> None:
    other, _ = prepared(dit(), 3, "other")
    network = wrapped("attention", form=form)
    begun = network.initial_weights(other.state_dict())
    missing = network.load_state_dict(begun, strict=False)
    assert not missing.unexpected_keys
    assert len(missing.missing_keys) == (2 * 2 if form == "lora" else 0)
    example = example_for(other, prefixes(3), torch.Generator().manual_seed(0))
    for one, want in zip(seen(example, network.eval()), seen(example, other), strict=True):
        torch.testing.assert_close(one, want, rtol=1e-5, atol=1e-6)
    again = network.state_dict()
    assert network.initial_weights(again).keys() == again.keys()


def test_flops_are_counted_with_the_stages_that_training_draws() -> None:
    plain, network = dit(), wrapped("mlp")
    shares = {(True, False, False): 0.5, (True, True, True): 0.5}
    assert training_flops(network, FACTS.layout, 8, True, shares) == training_flops(plain, FACTS.layout, 8, True)


def test_what_is_said_of_it() -> None:
    assert wrapped("mlp", "attention").describe()["specialised"] == "mlp, attention (average)"
    assert wrapped("all", form="lora").describe()["specialised"] == "all (lora of rank 2)"
    assert not wrapped("mlp").shardable_blocks()
    assert len(wrapped("all").stage_parameters()) == 3
    pyramid = PyramidDiT(PyramidDiTOptions(**TINY), FACTS)
    assert set(specialised(pyramid, settings("mlp")).backbone.weight_groups()) == set(GROUPS)  # type: ignore[union-attr]


def test_none_is_the_network_itself() -> None:
    network = dit()
    assert specialised(network, settings()) is network


def test_unknown_groups_and_networks_without_any_are_refused() -> None:
    with pytest.raises(
        CompositionError, match=r"groups: head, mpl: expected groups of the backbone, or all; DiT names"
    ):
        specialised(dit(), settings("head", "mlp", "mpl"))
    with pytest.raises(CompositionError, match="DiTExperts names no groups"):
        specialised(DiTExperts(DiTExpertsOptions(**TINY), FACTS), settings("mlp"))
    network = wrapped("mlp")
    with pytest.raises(CompositionError, match="parametrised weights already"):
        specialised(network.backbone, settings("mlp"))
    assert copy.deepcopy(network).state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("form", FORMS)
def test_a_run_is_trained_exported_and_loaded(tmp_path: Path, form: str) -> None:
    small = {"name": "dit", "options": TINY}
    changes = {"specialisation": {"groups": "mlp", "form": form}, "flow": {"statistics_images": 4}}
    model = dfm.train(
        stages=[8, 16], backbone=small, max_steps=3, batch_size=4, output=str(tmp_path / "run"), device="cpu", **changes
    )
    images = model.generate(2, seed=0)
    model.export(tmp_path / "model")
    assert torch.equal(dfm.load(tmp_path / "model").generate(2, seed=0), images)
    assert torch.equal(dfm.load(tmp_path / "run").generate(2, seed=0), images)
