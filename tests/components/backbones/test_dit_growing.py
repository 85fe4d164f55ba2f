"""A patch of one size: each sample comes out as from a plain `dit` of its visible stages; what is refused and said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dfm_core.conformance.backbone_examples import Example, example_for, prefixes, prepared
from dfm_core.errors import CompositionError, StageSizeError
from dfm_core.interfaces.backbone import BackboneFacts
from dfm_core.network_facts import training_flops
from dfm_core.stages import StageLayout, StageShape
from dfm_plugins.backbones.dit import DiT
from dfm_plugins.backbones.dit_growing import GrowingDiT
from dfm_plugins.backbones.specs import DiTOptions, GrowingDiTOptions

TINY = {"depth": 2, "width": 16, "heads": 2}


def layout(*sizes: int, channels: int = 3) -> StageLayout:
    return StageLayout(tuple(StageShape((size, size), (channels, size, size)) for size in sizes))


FACTS = BackboneFacts(layout(4, 8, 16), 2)


def growing(facts: BackboneFacts = FACTS, **options: object) -> GrowingDiT:
    torch.manual_seed(0)
    return GrowingDiT(GrowingDiTOptions.model_validate({**TINY, **options}), facts)


def weights_of_prefix(state: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Those of a plain network of the first `count` stages; where that has no stage index, the label brings it."""
    own = {name: value for name, value in state.items() if name.partition(".")[0] in ("blocks", "label")}
    ends = "stages." if count == len(FACTS.layout) else f"earlier.{count - 1}."
    own |= {f"stages.{name.removeprefix(ends)}": value for name, value in state.items() if name.startswith(ends)}
    index = state["stage_index.table.weight"]
    if count == 1:
        return own | {"label.table.weight": own["label.table.weight"] + index[:1]}
    return own | {"stage_index.table.weight": index[:count]}


@pytest.mark.parametrize("positions", ["rope", "rope+sincos"])
def test_a_sample_comes_out_as_from_a_plain_dit_of_its_visible_stages(positions: str) -> None:
    network, generator = prepared(growing(positions=positions), 0, "test")
    counts = [3, 1, 2, 1, 3]
    example = example_for(network, prefixes(3)[[count - 1 for count in counts]], generator)
    velocities = example.velocities(network)
    for row, count in enumerate(counts):
        # Built as for the area of the finest grid, 4x4 tokens of patch 4, over which absolute positions are spread.
        sizes = [16 * 2**stage // 2 ** (count - 1) for stage in range(count)]
        options = DiTOptions.model_validate({**TINY, "patch_size": 4, "positions": positions})
        plain = DiT(options, BackboneFacts(layout(*sizes), 2)).eval()
        assert plain.patching.patches == network.patchings[count - 1].patches
        plain.load_state_dict(weights_of_prefix(network.state_dict(), count))
        one = slice(row, row + 1)
        assert example.label is not None
        alone = Example(
            tuple(stage[one] for stage in example.noisy_stages[:count]),
            *(example.t[one, :count], example.visible[one, :count], example.label[one]),
        )
        for velocity, want in zip(velocities, alone.velocities(plain), strict=False):
            torch.testing.assert_close(velocity[one], want, rtol=1e-5, atol=1e-5)
        assert not any(velocity[one].any() for velocity in velocities[count:])


def test_the_patch_is_the_smallest_that_fits_and_other_values_are_refused_with_those_that_work() -> None:
    assert growing().patchings[2].patches == ((1, 1), (2, 2), (4, 4))
    assert [patching.grid for patching in growing().patchings] == [(1, 1), (2, 2), (4, 4)]
    latents = BackboneFacts(layout(32, 64), 0)
    assert growing(latents).patchings[1].grid == (16, 16)  # at most 16 unasked
    assert growing(latents, patch_size=2).patchings[1].grid == (32, 32)
    assert growing(latents, token_grid=8).patchings[1].patches == ((4, 4), (8, 8))
    with pytest.raises(CompositionError, match=r"sizes 32, 64: .*, got patch_size=3; use patch_size 2, 4, 8, 16, 32$"):
        growing(latents, patch_size=3)
    with pytest.raises(CompositionError, match=r"got token_grid=64; use token_grid 32, 16, 8, 4, 2$"):
        growing(latents, token_grid=64)
    with pytest.raises(CompositionError, match="multiple of the ratio of their sizes, .*; there is none: use larger"):
        growing(BackboneFacts(layout(2, 8, 32), 0))
    oblong = StageLayout((StageShape((4, 4), (3, 4, 4)), StageShape((8, 16), (3, 8, 16))))
    with pytest.raises(StageSizeError, match="same aspect ratio"):
        growing(BackboneFacts(oblong, 0))


def test_what_is_said_of_it() -> None:
    network = growing()
    assert network.describe() == {"tokens": "1x1 = 1, 2x2 = 4, 4x4 = 16", "patches": "4; 2, 4; 1, 2, 4"}
    assert not network.shardable_blocks()
    parameters = {id(parameter): name for name, parameter in network.named_parameters()}
    grouped = [id(parameter) for group in network.weight_groups().values() for parameter in group]
    assert sorted(grouped) == sorted(parameters)
    own = [{parameters[id(parameter)] for parameter in stage} for stage in network.stage_parameters()]
    assert set().union(*own) == {name for name in parameters.values() if name.startswith(("stages.", "earlier."))}
    ways_in = [{name.split(".patch_embedding")[0] for name in stage if "patch_embedding" in name} for stage in own]
    assert ways_in == [{"earlier.0.0", "earlier.1.0", "stages.0"}, {"earlier.1.1", "stages.1"}, {"stages.2"}]


def test_it_begins_with_the_weights_of_dit() -> None:
    plain = DiT(DiTOptions.model_validate({**TINY, "patch_size": 4}), FACTS).state_dict()
    own = growing().state_dict()
    assert all(own[name].shape == value.shape for name, value in plain.items())
    assert {name.split(".")[0] for name in own.keys() - plain.keys()} == {"earlier"}


def test_one_stage_is_dit() -> None:
    facts = BackboneFacts(layout(8), 2)
    network, generator = prepared(growing(facts), 0, "test")
    plain = DiT(DiTOptions.model_validate({**TINY, "patch_size": 1}), facts).eval()
    plain.load_state_dict(network.state_dict())
    example = example_for(network, prefixes(1), generator)
    torch.testing.assert_close(example.velocities(network), example.velocities(plain))


def test_fewer_visible_stages_cost_less_by_their_tokens() -> None:
    """By hand: 6 FLOPs a weight and token, 12 · width a pair of tokens and block; a few without tokens."""
    facts = BackboneFacts(layout(16, 32, channels=4), 0)
    network = growing(facts, width=64, patch_size=2)
    depth, width, samples = 2, 64, 8

    def by_hand(tokens: int, patches: tuple[int, ...]) -> int:
        ends = sum(2 * width * 4 * patch**2 for patch in patches)
        in_tokens = depth * 12 * width**2 + ends
        # Of each sample: the modulations of blocks (6) and heads (2), and the clocks.
        once = depth * 6 * width**2 + len(patches) * (2 * width**2 + 256 * width + width**2)
        return samples * (6 * (in_tokens * tokens + once) + 12 * depth * width * tokens**2)

    for visible, tokens, patches in (((True, False), 64, (2,)), ((True, True), 256, (1, 2))):
        counted = training_flops(network, facts.layout, samples, False, {visible: 1.0})
        # Nothing flows back into the data, the features of t and the tokens' first layer.
        assert counted == pytest.approx(by_hand(tokens, patches), rel=0.01)
    mixed = training_flops(network, facts.layout, samples, False, {(True, False): 0.5, (True, True): 0.5})
    assert mixed == (
        training_flops(network, facts.layout, 4, False, {(True, False): 1.0})
        + training_flops(network, facts.layout, 4, False, {(True, True): 1.0})
    )


def test_hidden_stages_need_no_fitting_size() -> None:
    """A stage that nobody sees is not looked at, only given back as zeros."""
    network, generator = prepared(growing(), 0, "test")
    example = example_for(network, prefixes(3)[[1, 1]], generator)
    odd = replace(example, noisy_stages=(*example.noisy_stages[:2], torch.full((2, 3, 17, 17), torch.nan)))
    velocities = odd.velocities(network)
    assert torch.equal(velocities[1], example.velocities(network)[1])
    assert velocities[2].shape == (2, 3, 17, 17)
