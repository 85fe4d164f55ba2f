"""Networks that sort the samples of a batch by their stages: each sample comes out as alone in the right network."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from dfm_core.errors import CompositionError
from dfm_core.interfaces.backbone import BackboneFacts, Conditioning
from dfm_core.stages import StageLayout, Stages, StageShape
from dfm_plugins.backbones.dit import DiT
from dfm_plugins.backbones.dit_experts import DiTExperts
from dfm_plugins.backbones.pyramid_dit import PyramidDiT
from dfm_plugins.backbones.specs import DiTExpertsOptions, DiTOptions, PyramidDiTOptions

TINY = {"depth": 1, "width": 16, "heads": 2}
LAYOUT = StageLayout(tuple(StageShape((size, size), (3, size, size)) for size in (4, 8, 16)))
FACTS = BackboneFacts(LAYOUT, 2)


def batch(visible: list[list[int]]) -> tuple[Stages, torch.Tensor, torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    seen = torch.tensor(visible, dtype=torch.bool)
    stages = tuple(torch.randn(len(seen), *stage.shape, generator=generator) for stage in LAYOUT)
    t = torch.where(seen, torch.rand(seen.shape, generator=generator), 0)
    return stages, t, seen, Conditioning(torch.randint(3, (len(seen),), generator=generator))


def awakened(network: torch.nn.Module) -> torch.nn.Module:
    """Weights that are not zero, so that outputs say something."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@torch.no_grad()
def test_pyramid_dit_is_a_plain_dit_on_every_stage() -> None:
    network = cast(PyramidDiT, awakened(PyramidDiT(PyramidDiTOptions(**TINY), FACTS)))
    plain = DiT(DiTOptions(**TINY, patch_size=2), BackboneFacts(StageLayout(LAYOUT.stages[2:]), 2)).eval()
    plain.load_state_dict({name.removeprefix("network."): value for name, value in network.state_dict().items()})
    stages, t, visible, conditioning = batch([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    velocities = network(stages, t, visible, conditioning)
    for row, stage in enumerate([0, 1, 2, 1]):
        one = Conditioning(conditioning.label[row : row + 1] if conditioning.label is not None else None)
        seen = torch.ones(1, 1, dtype=torch.bool)
        (want,) = plain((stages[stage][row : row + 1],), t[row : row + 1, stage : stage + 1], seen, one)
        torch.testing.assert_close(velocities[stage][row : row + 1], want)
        assert all(not velocities[other][row].any() for other in range(3) if other != stage)
    assert network.describe()["tokens"] == "2x2 = 4, 4x4 = 16, 8x8 = 64"


@torch.no_grad()
def test_each_sample_goes_to_the_network_of_its_finest_stage() -> None:
    network = cast(DiTExperts, awakened(DiTExperts(DiTExpertsOptions(**TINY), FACTS)))
    stages, t, visible, conditioning = batch([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]])
    velocities = network(stages, t, visible, conditioning)
    for row, finest in enumerate([2, 0, 1, 0]):
        own = [stage[row : row + 1] for stage in stages[: finest + 1]]
        one = Conditioning(conditioning.label[row : row + 1] if conditioning.label is not None else None)
        seen = visible[row : row + 1, : finest + 1]
        want = network.experts[finest](own, t[row : row + 1, : finest + 1], seen, one)
        for stage, value in enumerate(want):
            torch.testing.assert_close(velocities[stage][row : row + 1], value)


def test_only_the_network_of_the_visible_stages_learns() -> None:
    network = DiTExperts(DiTExpertsOptions(**TINY, frozen=(1,)), FACTS)
    velocities = network(*batch([[1, 1, 0]] * 2))
    torch.stack([velocity.square().mean() + velocity.mean() for velocity in velocities]).sum().backward()
    with_gradient = {name.split(".")[1] for name, p in network.named_parameters() if p.grad is not None}
    learning = {name.split(".")[1] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {"1"}
    # Zero for the third: processes that share the weights have gradients of the same ones.
    assert with_gradient == {"1", "2"}


def test_initial_weights_come_from_the_frozen_stage_before() -> None:
    network = DiTExperts(DiTExpertsOptions(**TINY, frozen=(1, 2)), FACTS)
    given = network.state_dict()
    begun = network.initial_weights(given)
    assert begun["experts.2.blocks.0.mlp.0.weight"] is given["experts.1.blocks.0.mlp.0.weight"]
    assert begun["experts.1.blocks.0.mlp.0.weight"] is given["experts.1.blocks.0.mlp.0.weight"]
    plain = DiTExperts(DiTExpertsOptions(**TINY), FACTS)
    assert plain.initial_weights(given) == given


def test_pyramid_dit_refuses_what_it_cannot_share_its_weights_over() -> None:
    odd = StageLayout((StageShape((3, 3), (3, 3, 3)), StageShape((6, 6), (3, 6, 6))))
    mixed = StageLayout((StageShape((4, 4), (3, 4, 4)), StageShape((8, 8), (9, 8, 8))))
    for layout in (odd, mixed):
        with pytest.raises(CompositionError, match="pyramid_dit: expected stages of the same channels"):
            PyramidDiT(PyramidDiTOptions(**TINY), BackboneFacts(layout, 0))
