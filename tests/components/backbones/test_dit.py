"""`dit`: its equations against an independent writing, parameter counts, FLOPs, options, and how it is used."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dfm_core.conformance.backbone_examples import example_for, prefixes, randomize
from dfm_core.errors import CompositionError, StageShapeError
from dfm_core.interfaces.backbone import BackboneFacts, Conditioning
from dfm_core.preconditioning import VelocityModel
from dfm_core.stages import StageLayout, StageShape
from dfm_plugins.backbones.dit import DiT
from dfm_plugins.backbones.specs import DiTOptions


def layout(*shapes: tuple[int, ...]) -> StageLayout:
    return StageLayout(tuple(StageShape(shape[1:], shape) for shape in shapes))


def build(*shapes: tuple[int, ...], classes: int = 3, **options: object) -> DiT:
    tiny: dict[str, object] = {"depth": 2, "width": 32, "heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DiT(DiTOptions(**{**tiny, **options}), BackboneFacts(layout(*shapes), classes))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameters(size: str, *shapes: tuple[int, ...], classes: int = 1000, **options: object) -> DiT:
    with torch.device("meta"):
        return DiT(DiTOptions(size=size, **options), BackboneFacts(layout(*shapes), classes))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Size of each model


@pytest.mark.parametrize(("size", "millions"), [("S", 32.9), ("B", 130.3), ("L", 457.8), ("XL", 674.8)])
def test_plain_sizes_have_the_published_parameters(size: str, millions: float) -> None:
    # Peebles and Xie 2023, patch 2 on 32×32×4 latents; they also predict a variance and count the fixed positions.
    assert count(parameters(size, (4, 32, 32), patch_size=2)) / 1e6 == pytest.approx(millions, rel=0.005)


def test_what_a_second_stage_adds_to_xl() -> None:
    plain = parameters("XL", (16, 64, 64), patch_size=2)
    two = parameters("XL", (16, 32, 32), (16, 64, 64), patch_size=2)
    assert two.patching.patches == ((1, 1), (2, 2))
    coarse = two.stages[0]
    assert count(coarse.patch_embedding) == 16 * 1152 + 1152
    assert count(coarse.timestep_embedder) == 256 * 1152 + 1152 + 1152 * 1152 + 1152
    assert count(coarse.head) == 1152 * 2304 + 2304 + 1152 * 16 + 16
    assert count(coarse) == pytest.approx(4.319e6, abs=500)
    assert count(two.stage_index) == 2304
    assert count(two) - count(plain) == count(coarse) + 2304


def test_positions_and_tables_are_not_part_of_the_state() -> None:
    network = build((3, 4, 4), (3, 8, 8), positions="rope+sincos")
    names = {name for name, _ in network.named_parameters()}
    assert set(network.state_dict()) == names


# What it computes


def independent_dit(network: DiT, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """Plain DiT for one stage with square patches, written without einops and with complex rotations."""
    state = dict(network.named_parameters())
    (patch, _), (rows, columns) = network.patching.patches[0], network.patching.grid
    heads = network.options.dimensions.heads
    batch, channels = x.shape[:2]

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(value: Tensor) -> Tensor:
        variance, mean = torch.var_mean(value, -1, correction=0, keepdim=True)
        return (value - mean) / (variance + 1e-6).sqrt()

    phases = 1000 * t[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    clock = linear("stages.0.timestep_embedder.first", torch.cat((phases.cos(), phases.sin()), -1))
    condition = linear("stages.0.timestep_embedder.second", F.silu(clock)) + state["label.table.weight"][label]
    condition = F.silu(condition)

    tokens = F.unfold(x, patch, stride=patch).mT
    tokens = linear("stages.0.patch_embedding", tokens)
    width = tokens.shape[-1]
    row, column = (torch.arange(rows * columns) // columns).float(), (torch.arange(rows * columns) % columns).float()
    features = []
    for place, length in ((row, rows), (column, columns)):
        angle = (place - (length - 1) / 2)[:, None] * 10000.0 ** (-torch.arange(width // 4) / (width // 4))
        features += [angle.sin(), angle.cos()]
    tokens = tokens + torch.cat(features, -1)

    pairs = width // heads // 2
    slow = 10000.0 ** (-torch.arange(pairs // 2) / (pairs // 2))
    turn = torch.polar(torch.ones(()), torch.cat((row[:, None] * slow, column[:, None] * slow), -1))

    for index in range(network.options.dimensions.depth):
        name = f"blocks.{index}"
        parts = linear(f"{name}.modulation", condition)[:, None].chunk(6, -1)
        mixed = norm(tokens) * (1 + parts[1]) + parts[0]
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in linear(f"{name}.attention.qkv", mixed).chunk(3, -1)
        )
        query, key = (
            torch.complex(part[..., :pairs], part[..., pairs:]) * turn for part in (query, key)
        )  # the real part of q · conj(k) is the product of the rotated vectors
        weights = ((query @ key.mH).real / math.sqrt(2 * pairs)).softmax(-1)
        mixed = linear(f"{name}.attention.projection", (weights @ value).transpose(1, 2).flatten(2))
        tokens = tokens + parts[2] * mixed
        hidden = F.gelu(linear(f"{name}.mlp.0", norm(tokens) * (1 + parts[4]) + parts[3]), approximate="tanh")
        tokens = tokens + parts[5] * linear(f"{name}.mlp.2", hidden)

    shift, scale = linear("stages.0.head.modulation", condition)[:, None].chunk(2, -1)
    patches = linear("stages.0.head.projection", norm(tokens) * (1 + scale) + shift)
    return F.fold(patches.mT, x.shape[2:], patch, stride=patch).reshape(batch, channels, *x.shape[2:])


def test_one_stage_equals_an_independent_plain_dit() -> None:
    network = randomize(build((3, 8, 12), token_grid=4), generator())
    example = example_for(network, torch.ones(4, 1, dtype=torch.bool), generator(1))
    expected = independent_dit(network, example.noisy_stages[0], example.t[:, 0], example.label)
    torch.testing.assert_close(example.velocities(network)[0], expected, rtol=1e-4, atol=1e-5)


def test_output_is_zero_at_initialisation_and_blocks_are_the_identity() -> None:
    network = build((3, 4, 4), (3, 8, 8))
    example = example_for(network, prefixes(2), generator())
    assert all(not velocity.any() for velocity in example.velocities(network))
    tokens, rotation = torch.randn(2, 5, 32, generator=generator()), (torch.ones(5, 8), torch.zeros(5, 8))
    assert torch.equal(network.blocks[0](tokens, torch.randn(2, 32, generator=generator()), rotation), tokens)


def test_initial_weights_come_from_the_generator_alone() -> None:
    network, other = build((3, 8, 8)), build((3, 8, 8))
    for each in (network, other):
        state = torch.get_rng_state()
        each.initialize(generator(5))
        assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert network.label.table.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert network.stages[0].timestep_embedder.first.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_rope_alone_is_blind_to_absolute_position_and_sincos_is_not() -> None:
    for positions, same in (("rope", True), ("rope+sincos", False)):
        network = randomize(build((3, 8, 8), positions=positions, token_grid=8), generator())
        # The same patch everywhere: only an absolute position can tell the tokens apart.
        example = example_for(network, torch.ones(1, 1, dtype=torch.bool), generator(1))
        flat = torch.ones_like(example.noisy_stages[0]) * torch.randn(1, 3, 1, 1, generator=generator(2))
        velocity = network((flat,), example.t, example.visible, Conditioning(example.label))[0]
        assert (velocity.std((2, 3)).max() < 1e-5) == same


@pytest.mark.parametrize("qk_norm", [False, True])
def test_qk_norm_bounds_the_attention_logits(qk_norm: bool) -> None:
    network = build((3, 8, 8), qk_norm=qk_norm)
    attention = network.blocks[0].attention
    tokens, rotation = torch.randn(1, 6, 32, generator=generator()), (torch.ones(6, 8), torch.zeros(6, 8))
    with torch.no_grad():
        attention.qkv.weight[:64] *= 1.7
    before = attention(tokens, rotation)
    with torch.no_grad():
        attention.qkv.weight[:64] *= 3
    assert torch.allclose(attention(tokens, rotation), before, atol=1e-5) == qk_norm


# Invisible stages


def test_nan_at_invisible_stages_reaches_no_gradient() -> None:
    network = randomize(build((3, 4, 4), (3, 8, 8)), generator())
    example = example_for(network, torch.tensor([[True, False]] * 2), generator(1))
    stages = (example.noisy_stages[0], torch.full_like(example.noisy_stages[1], torch.nan))
    t = torch.stack((example.t[:, 0], torch.full((2,), torch.nan)), 1)
    network(stages, t, example.visible, Conditioning(example.label))[0].sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_stage_index_is_that_of_the_finest_visible_stage() -> None:
    network = randomize(build((3, 4, 4), (3, 8, 8), (3, 16, 16)), generator())
    masks = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]]).bool()
    assert torch.equal(network.stage_index(masks), network.stage_index.table.weight[[0, 1, 1, 2, 2, 0]])
    assert build((3, 8, 8)).stage_index is None


def test_a_stage_that_is_invisible_adds_nothing() -> None:
    two = randomize(build((3, 4, 4), (3, 8, 8)), generator())
    with torch.no_grad():
        two.stage_index.table.weight.zero_()
    one = build((3, 4, 4))
    kept = {name: tensor for name, tensor in two.state_dict().items() if name in one.state_dict()}
    one.load_state_dict(kept)
    example = example_for(two, torch.tensor([[True, False]] * 3), generator(1))
    with torch.no_grad():
        alone = one(example.noisy_stages[:1], example.t[:, :1], example.visible[:, :1], Conditioning(example.label))
        assert torch.equal(alone[0], example.velocities(two)[0])


# Cost


def flops(*shapes: tuple[int, ...]) -> int:
    network = parameters("S", *shapes, classes=10)
    batch = 2
    stages = tuple(torch.empty(batch, *shape, device="meta") for shape in shapes)
    t = torch.empty(batch, len(shapes), device="meta")
    visible = torch.ones(batch, len(shapes), dtype=torch.bool, device="meta")
    model = VelocityModel(network, "edm", [1.0] * len(shapes))
    with FlopCounterMode(display=False) as counter:
        velocities = model(stages, t, visible, Conditioning(torch.zeros(batch, dtype=torch.int64, device="meta")))
        sum(velocity.sum() for velocity in velocities).backward()
    return counter.get_total_flops()


def test_a_second_stage_costs_next_to_nothing() -> None:
    plain, two = flops((3, 32, 32)), flops((3, 16, 16), (3, 32, 32))
    assert math.prod(build((3, 16, 16), (3, 32, 32)).patching.grid) == 256
    assert two / plain <= 1.005


# How it is used


def test_compiles_as_one_graph() -> None:
    network = randomize(build((3, 4, 4), (3, 8, 8), depth=1, qk_norm=True), generator())
    model, example = VelocityModel(network, "edm", [1.0, 0.2]), example_for(network, prefixes(2), generator(1))
    arguments = (example.noisy_stages, example.t, example.visible, Conditioning(example.label))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for a, b in zip(compiled(*arguments), model(*arguments), strict=True):
        torch.testing.assert_close(a, b)
    torch.compiler.reset()


@pytest.mark.slow
def test_compiled_graph_takes_other_sizes_and_gives_gradients() -> None:
    network = randomize(build((3, 4, 4), (3, 8, 8), qk_norm=True), generator())
    model = VelocityModel(network, "edm", [1.0, 0.2])
    compiled = torch.compile(model, fullgraph=True)
    for repeats in (1, 2, 3):
        example = example_for(network, prefixes(2), generator(repeats))
        stages = tuple(stage.repeat(1, 1, 1, repeats) for stage in example.noisy_stages)
        arguments = (stages, example.t, example.visible, Conditioning(example.label))
        gradients = []
        for run in (compiled, model):
            velocities = run(*arguments)
            gradients.append(torch.autograd.grad(sum(v.square().sum() for v in velocities), list(model.parameters())))
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    torch.compiler.reset()


def test_training_works_after_sampling_in_inference_mode() -> None:
    # Fresh sizes, so that inference mode is the first to ask for these tables.
    network = randomize(build((3, 11, 13), (3, 22, 26), token_grid=11), generator())
    example = example_for(network, prefixes(2), generator(1))
    with torch.inference_mode():
        network(example.noisy_stages, example.t, example.visible, Conditioning(example.label))
    velocities = network(example.noisy_stages, example.t, example.visible, Conditioning(example.label))
    sum(velocity.sum() for velocity in velocities).backward()
    assert torch.isfinite(network.blocks[0].modulation.weight.grad).all()


def test_a_copy_computes_the_same() -> None:
    network = randomize(build((3, 4, 4), (3, 8, 8)), generator())
    example = example_for(network, prefixes(2), generator(1))
    for a, b in zip(example.velocities(network), example.velocities(copy.deepcopy(network)), strict=True):
        assert torch.equal(a, b)


def test_real_calls_follow_fake_ones() -> None:
    network = randomize(build((3, 9, 15), token_grid=3), generator())
    example = example_for(network, prefixes(1), generator(1))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        stages = tuple(mode.from_tensor(stage) for stage in example.noisy_stages)
        t, visible, label = (mode.from_tensor(x) for x in (example.t, example.visible, example.label))
        network(stages, t, visible, Conditioning(label))
    assert type(example.velocities(network)[0]) is Tensor


def test_residual_stream_stays_float32_under_autocast() -> None:
    network, seen = randomize(build((3, 4, 4), (3, 8, 8), positions="rope", qk_norm=True), generator()), []
    network.blocks[1].register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0].dtype, output.dtype)))
    example = example_for(network, prefixes(2), generator(1))
    exact = example.velocities(network)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = example.velocities(network)
    assert seen[-2:] == [torch.float32, torch.float32]
    for a, b in zip(rounded, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() < 0.1 * b.abs().max()


# Options and bad input


def test_options_override_the_size() -> None:
    assert DiTOptions(size="B").dimensions == (12, 768, 12)
    assert DiTOptions(size="B", depth=3, heads=6).dimensions == (3, 768, 6)
    network = build((3, 8, 8), depth=3, width=16, heads=1, mlp_ratio=2.5)
    assert len(network.blocks) == 3
    assert network.blocks[0].mlp[0].out_features == 40


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 30}, "multiple of 4"),
        ({"size": "Ti", "width": 128}, "heads that fit this width: 1, 2, 4, 8, 16, 32"),
        ({"token_grid": 4, "patch_size": 2}, "give one of them"),
        ({"size": "XXL"}, "size"),
        ({"patch": 2}, "patch"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DiTOptions(**options)


def test_stages_that_do_not_fit_are_refused() -> None:
    network = build((3, 4, 4), (3, 8, 8), token_grid=2)
    example = example_for(network, prefixes(2), generator())
    rest = (example.t, example.visible, Conditioning(example.label))
    coarse, fine = example.noisy_stages
    with pytest.raises(StageShapeError, match="expected 2 stages with 3, 3 channels"):
        network((coarse,), *rest)
    with pytest.raises(StageShapeError, match="channels"):
        network((coarse, fine[:, :1]), *rest)
    with pytest.raises(StageShapeError, match="one token grid"):
        network((coarse, fine.repeat(1, 1, 1, 2)), *rest)
    with pytest.raises(StageShapeError, match="patches 2, 4"):
        network((coarse[..., :3], fine[..., :6]), *rest)
    with pytest.raises(CompositionError, match="images"):
        build((3, 4, 8, 8))


def test_generation_leaves_out_what_belongs_to_hidden_stages() -> None:
    """The same bits (of sixteen samples: see per_sample), and no call of a hidden stage's layers."""
    facts = BackboneFacts(layout((3, 8, 8), (3, 16, 16)), 0)
    network = randomize(DiT(DiTOptions(depth=1, width=16, heads=2), facts), torch.Generator().manual_seed(0))
    calls: list[int] = []
    for index, stage in enumerate(network.stages):
        for part in (stage.patch_embedding, stage.timestep_embedder, stage.head):
            part.register_forward_hook(lambda *_, index=index: calls.append(index))
    generator = torch.Generator().manual_seed(1)
    noisy = tuple(torch.randn(16, *stage.shape, generator=generator) for stage in network.facts.layout)
    t, visible = torch.tensor([[0.3, 0.0]] * 16), torch.tensor([[True, False]] * 16)
    in_training = network(noisy, t, visible, Conditioning())
    assert calls == [0, 1, 0, 1, 0, 1]
    calls.clear()
    with torch.no_grad():
        in_generation = network(noisy, t, visible, Conditioning())
    assert calls == [0, 0, 0]
    assert torch.equal(in_generation[0], in_training[0])
    assert not in_generation[1].any()
    with torch.no_grad():
        network(noisy, t, torch.tensor([[True, False]] * 15 + [[True, True]]), Conditioning())
    assert set(calls) == {0, 1}
