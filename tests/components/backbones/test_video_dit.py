"""`video_dit`: equal to `dit` for one frame, its patches in time, who attends to whom, parameter counts and FLOPs."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dfm_core.conformance.backbone_examples import Example, example_for, prefixes, randomize, weighted_sum
from dfm_core.errors import CompositionError, StageShapeError
from dfm_core.interfaces.backbone import BackboneFacts, Conditioning
from dfm_core.preconditioning import VelocityModel
from dfm_core.stages import StageLayout, StageShape
from dfm_core.training.activations import recompute_activations
from dfm_plugins.backbones.dit import DiT
from dfm_plugins.backbones.positions import Rotation, rotary_table
from dfm_plugins.backbones.specs import SIZES, DiTOptions, VideoDiTOptions
from dfm_plugins.backbones.video_dit import VideoDiT

TINY: dict[str, object] = {"depth": 2, "width": 32, "heads": 2}
Shape = tuple[int, ...]


def facts(*shapes: Shape, classes: int = 3) -> BackboneFacts:
    return BackboneFacts(StageLayout(tuple(StageShape(shape[1:], shape) for shape in shapes)), classes)


def build(*shapes: Shape, classes: int = 3, **options: object) -> VideoDiT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VideoDiT(VideoDiTOptions(**{**TINY, **options}), facts(*shapes, classes=classes))


def drawn(*shapes: Shape, **options: object) -> tuple[VideoDiT, Example]:
    """A network with random weights, and a batch in which each prefix of stages is visible."""
    network = randomize(build(*shapes, **options), generator())
    return network, example_for(network, prefixes(len(shapes)), generator(1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# One frame is dit


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (((3, 8, 8),), {}),
        (((3, 8, 8), (3, 32, 32)), {"qk_norm": True}),
        (((2, 4, 6), (2, 8, 12), (4, 16, 24)), {"positions": "rope", "token_grid": 2}),
    ],
)
def test_one_frame_is_dit_bit_for_bit(shapes: Sequence[Shape], options: dict[str, object]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = DiT(DiTOptions(**{**TINY, **options}), facts(*shapes))
    clips = [(channels, 1, *size) for channels, *size in shapes]
    video = build(*clips, **options, rope_split=(0, 4, 4))
    # The same draws in the same order, so also the same initial weights.
    assert list(video.state_dict()) == list(image.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(video.parameters(), image.parameters(), strict=True))
    image = randomize(image, generator())
    video.load_state_dict(image.state_dict())
    example = example_for(image, prefixes(len(shapes)), generator(1))
    stages = tuple(stage[:, :, None] for stage in example.noisy_stages)
    clip = Example(stages, example.t, example.visible, example.label)
    for flat, deep in zip(example.velocities(image), clip.velocities(video), strict=True):
        assert torch.equal(flat[:, :, None], deep)
    weighted_sum(image, example, generator(2)).backward()
    weighted_sum(video, clip, generator(2)).backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(video.parameters(), image.parameters(), strict=True))


def test_a_model_of_clips_takes_images_of_any_size_as_dit_does() -> None:
    video, image = build((3, 4, 8, 8), rope_split=(0, 4, 4)), DiT(DiTOptions(**TINY), facts((3, 8, 8)))
    image.load_state_dict(randomize(video, generator()).state_dict())
    video.load_state_dict(image.state_dict())
    example = example_for(image, prefixes(1), generator(1), facts((3, 16, 8)).layout)
    clip = Example((example.noisy_stages[0][:, :, None],), example.t, example.visible, example.label)
    assert torch.equal(clip.velocities(video)[0][:, :, 0], example.velocities(image)[0])


# Patches in time


def test_frames_are_patchified_on_their_own() -> None:
    network = build((3, 4, 4, 4), (3, 4, 8, 8))
    assert network.describe() == {"tokens": "4x4x4 = 64", "patches": "1x1x1, 1x2x2"}
    network = build((3, 4, 16, 16), (3, 8, 32, 32))
    assert network.describe() == {"tokens": "4x8x8 = 256", "patches": "1x2x2, 2x4x4"}


def test_other_sizes_and_frame_counts_have_grids_of_their_own() -> None:
    network, _ = drawn((3, 2, 4, 4), (3, 4, 8, 8))
    for frames, size in (((2, 4), 8), ((6, 12), 4), ((1, 1), 4), ((3, 5), 12), ((1, 2), 4)):
        layout = facts((3, frames[0], size, size), (3, frames[1], 2 * size, 2 * size)).layout
        example = example_for(network, prefixes(2), generator(), layout)
        velocities = example.velocities(network)
        assert [v.shape for v in velocities] == [s.shape for s in example.noisy_stages]
        assert network.patching.grid_at(example.noisy_stages) == (frames[0], size, size)


@pytest.mark.parametrize("frames", [(2, 4, 8), (2, 3, 5)])
def test_every_frame_is_seen_and_answered(frames: Shape) -> None:
    # In patches of 1, 2 and 4 frames; the second is a causal grid of 1 + 1, 1 + 2 and 1 + 4.
    network, example = drawn(*((1, count, 2, 2) for count in frames), depth=1)
    assert [patch[0] for patch in network.patching.patches] == [1, 2, 4]
    stages = tuple(stage[-1:].clone().requires_grad_() for stage in example.noisy_stages)
    velocities = network(stages, example.t[-1:], example.visible[-1:], Conditioning(example.label[-1:]))
    for velocity in velocities:
        for frame in velocity.unbind(2):
            gradients = torch.autograd.grad(frame.square().sum(), stages, retain_graph=True)
            assert all((gradient != 0).any(dim=(0, 1, 3, 4)).all() for gradient in gradients)


def test_temporal_patches_cost_tokens_and_need_weights() -> None:
    network = build((3, 8, 4, 4), (3, 8, 8, 8), temporal_patch=4)
    assert network.describe() == {"tokens": "2x4x4 = 32", "patches": "4x1x1, 4x2x2"}
    assert network.stages[1].patch_embedding.in_features == 3 * 4 * 2 * 2


# Who attends to whom


def reach(network: VideoDiT, grid: Shape, blocks: Sequence[int]) -> Tensor:
    """Whether token j reaches token i through these blocks, (*grid, *grid) bool."""
    tokens = torch.randn(1, math.prod(grid), 32, generator=generator(3)).requires_grad_()
    condition = torch.randn(1, 32, generator=generator(4))
    rotation, mixed = network.rotation(grid, tokens), tokens
    for index in blocks:
        mixed = network.blocks[index](mixed, condition, rotation, network.groups(index, grid))
    rows = [torch.autograd.grad(token.sum(), tokens, retain_graph=True)[0] for token in mixed[0]]
    return torch.stack([(row[0] != 0).any(-1) for row in rows]).reshape(*grid, *grid)


def test_factorised_attention_mixes_within_frames_then_along_time() -> None:
    grid = (3, 2, 4)
    network, _ = drawn((1, 3, 2, 4), attention="factorised", depth=4)
    place = torch.cartesian_prod(*(torch.arange(length) for length in grid))
    same_frame = place[:, None, 0] == place[None, :, 0]
    same_place = (place[:, None, 1:] == place[None, :, 1:]).all(-1)
    for block, expected in enumerate((same_frame, same_place, same_frame, same_place)):
        assert torch.equal(reach(network, grid, [block]), expected.reshape(*grid, *grid))
    assert reach(network, grid, [0, 1]).all()
    full, _ = drawn((1, 3, 2, 4))
    assert reach(full, grid, [0]).all()


def test_factorised_attention_is_attention_with_a_mask() -> None:
    grid, batch = (3, 2, 4), 2
    network, _ = drawn((1, 3, 2, 4), attention="factorised")
    tokens = torch.randn(batch, 24, 32, generator=generator(3))
    rotation = network.rotation(grid, tokens)
    place = torch.cartesian_prod(*(torch.arange(length) for length in grid))
    for index, columns in enumerate(([0], [1, 2])):
        attention = network.blocks[index].attention
        mask = (place[:, None, columns] == place[None, :, columns]).all(-1)
        queries, keys, values = (
            part.unflatten(-1, (2, 16)).transpose(1, 2) for part in attention.qkv(tokens).chunk(3, -1)
        )
        cos, sin = rotation
        queries, keys = (
            torch.cat((x[..., :8] * cos - x[..., 8:] * sin, x[..., 8:] * cos + x[..., :8] * sin), -1)
            for x in (queries, keys)
        )
        weights = (queries @ keys.mT / 4).masked_fill(~mask, -torch.inf).softmax(-1)
        expected = attention.projection((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(attention(tokens, rotation, network.groups(index, grid)), expected)


class Displaced(VideoDiT):
    """Its tokens stand elsewhere in a larger grid."""

    offset = (2, 3, 1)

    def rotation(self, grid: Shape, like: Tensor) -> Rotation:
        larger = tuple(length + offset for length, offset in zip(grid, self.offset, strict=True))
        window = tuple(slice(offset, None) for offset in self.offset)
        cos, sin = (
            table.reshape(*larger, -1)[window].flatten(0, 2)
            for table in rotary_table(larger, self.rope_split, like.device)
        )
        return cos, sin


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_a_clip_elsewhere_in_space_and_time_gives_the_same(attention: str) -> None:
    network, example = drawn((3, 3, 4, 4), (3, 3, 8, 8), positions="rope", attention=attention)
    elsewhere = Displaced(network.options, network.facts).eval()
    elsewhere.load_state_dict(network.state_dict())
    there, here = example.velocities(elsewhere), example.velocities(network)
    for a, b in zip(there, here, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert not torch.equal(a, b)


def test_attention_scores_depend_on_differences_along_all_axes() -> None:
    query, key = torch.randn(2, 1, 32, generator=generator())
    cos, sin = (table.reshape(5, 4, 6, 16) for table in rotary_table((5, 4, 6), (4, 6, 6), torch.device("cpu")))
    turned = torch.complex(cos, sin)
    scores = torch.einsum("...d,d->...", (turned[1:, 1:, 1:] * turned[:-1, :-1, :-1].conj()), as_complex(query, key))
    torch.testing.assert_close(scores, scores[0, 0, 0].expand_as(scores))
    for axis in range(3):
        moved = torch.einsum("...d,d->...", turned * turned[0, 0, 0].conj(), as_complex(query, key)).real
        assert moved.movedim(axis, 0)[1, 0, 0] != moved[0, 0, 0]


def as_complex(query: Tensor, key: Tensor) -> Tensor:
    """Products of the pairs of two vectors, of which the turned sum's real part is the score."""
    pairs = [torch.complex(*x[0].chunk(2)) for x in (query, key)]
    return pairs[0] * pairs[1].conj()


def test_order_of_frames_is_seen_through_either_kind_of_position() -> None:
    for options in ({"positions": "rope"}, {}, {"positions": "rope", "rope_split": (0, 4, 4)}):
        network, example = drawn((3, 4, 4, 4), **options)
        clip = example.noisy_stages[0]
        backwards = Example((clip.flip(2),), example.t, example.visible, example.label)
        same = torch.allclose(example.velocities(network)[0], backwards.velocities(network)[0].flip(2), atol=1e-5)
        assert same == (options.get("rope_split") is not None)


# Cost


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temporal_patch", [1, 2])
def test_parameters_in_closed_form(size: str, temporal_patch: int) -> None:
    depth, width, _ = SIZES[size]
    with torch.device("meta"):
        options = VideoDiTOptions(size=size, token_grid=32, temporal_patch=2 * temporal_patch, attention="factorised")
        network = VideoDiT(options, facts((16, 4, 32, 32), (16, 8, 64, 64), classes=400))
    block = 6 * (width**2 + width) + 4 * (width**2 + width) + 8 * width**2 + 5 * width
    clock = 256 * width + width + width**2 + width
    features = [16 * temporal_patch, 16 * 2 * temporal_patch * 2 * 2]
    ends = sum((f + 1) * width + (width + 1) * f + 2 * (width**2 + width) for f in features)
    assert count(network) == depth * block + 2 * clock + ends + 2 * width + 401 * width


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_flops_in_closed_form(attention: str) -> None:
    shapes = ((3, 4, 8, 8), (3, 8, 16, 16))
    with torch.device("meta"):
        network = VideoDiT(VideoDiTOptions(size="S", attention=attention), facts(*shapes))
    batch, (depth, width, _), (frames, places) = 2, SIZES["S"], (4, 64)
    arguments = [torch.empty(batch, *shape, device="meta") for shape in shapes]
    t, visible = torch.empty(batch, 2, device="meta"), torch.ones(batch, 2, dtype=torch.bool, device="meta")
    label = torch.zeros(batch, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(arguments, t, visible, Conditioning(label))
    tokens = frames * places
    seen = {"full": depth * tokens, "factorised": depth // 2 * (frames + places)}[attention]
    patches = [3, 3 * 2 * 2 * 2]
    a_token = depth * 12 * width**2 + seen * 2 * width + sum(2 * width * features for features in patches)
    a_sample = depth * 6 * width**2 + 2 * (256 * width + width**2 + 2 * width**2)
    assert counter.get_total_flops() == 2 * batch * (tokens * a_token + a_sample)


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_recomputed_activations_give_the_same_gradients(mode: str, attention: str) -> None:
    network, example = drawn((3, 3, 4, 4), (3, 5, 8, 8), attention=attention)
    other = copy.deepcopy(network)
    recompute_activations(other.shardable_blocks(), mode)
    for each in (network, other):
        weighted_sum(each, example, generator(2)).backward()
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.slow
def test_compiles_as_one_graph() -> None:
    network, example = drawn((3, 2, 2, 2), (3, 3, 4, 4), attention="factorised")
    model = VelocityModel(network, "edm", [1.0, 0.2])
    arguments = (example.noisy_stages, example.t, example.visible, Conditioning(example.label))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for a, b in zip(compiled(*arguments), model(*arguments), strict=True):
        torch.testing.assert_close(a, b)
    torch.compiler.reset()


# Options and bad input


@pytest.mark.parametrize(
    ("options", "axes"),
    [
        ({"size": "Ti"}, (8, 12, 12)),
        ({"size": "XL"}, (10, 13, 13)),
        ({"width": 16, "heads": 2}, (2, 1, 1)),
        ({"width": 32, "heads": 2, "rope_split": [0, 4, 4]}, (0, 4, 4)),
    ],
)
def test_frequencies_of_the_axes(options: dict[str, object], axes: tuple[int, int, int]) -> None:
    assert VideoDiTOptions(**options).axes == axes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rope_split": (8, 8, 8)}, r"rope_split \[8, 8, 8\] has 24 frequencies in sum, expected 32: half the 64"),
        ({"rope_split": (40, -4, -4)}, "greater than or equal to 0"),
        ({"rope_split": (16, 16)}, "rope_split"),
        ({"width": 16, "heads": 4}, r"heads of 4 features are too small.*rope_split, such as \[0, 1, 1\]"),
        ({"attention": "factorised", "depth": 1}, "a depth of 2 or more"),
        ({"attention": "half"}, "attention"),
        ({"temporal_patch": 0}, "temporal_patch"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        VideoDiTOptions(**options)


def test_stages_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CompositionError, match=r"takes clips, stages of shape \(C, T, H, W\); got \(3, 8, 8\)"):
        build((3, 8, 8))
    network, example = drawn((3, 2, 4, 4), (3, 4, 8, 8))
    rest = (example.t, example.visible, Conditioning(example.label))
    coarse, fine = example.noisy_stages
    with pytest.raises(StageShapeError, match="2x4x4, 5x8x8 do not give one token grid with patches 1x1x1, 2x2x2"):
        network((coarse, torch.cat((fine, fine[:, :, :1]), 2)), *rest)
    with pytest.raises(StageShapeError, match="one token grid"):
        network((coarse[:, :, 0], fine[:, :, 0]), *rest)
    with pytest.raises(StageShapeError, match="expected 2 stages with 3, 3 channels"):
        network((coarse,), *rest)
