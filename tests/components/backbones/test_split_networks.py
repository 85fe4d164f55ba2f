"""Networks that sort the samples of a batch by their stages: each sample comes out as alone in the right network."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from dfm_core.errors import CompositionError
from dfm_core.interfaces.backbone import Backbone, BackboneFacts, Conditioning
from dfm_core.stages import Size, StageLayout, Stages, StageShape
from dfm_plugins.backbones.dit import DiT
from dfm_plugins.backbones.dit_experts import DiTExperts
from dfm_plugins.backbones.pyramid_dit import PyramidDiT
from dfm_plugins.backbones.specs import ClipOptions, DiTExpertsOptions, DiTOptions, PyramidDiTOptions, VideoDiTOptions
from dfm_plugins.backbones.video_dit import VideoDiT

TINY = {"depth": 1, "width": 16, "heads": 2}


def layout(*sizes: Size) -> StageLayout:
    return StageLayout(tuple(StageShape(size, (3, *size)) for size in sizes))


LAYOUT = layout((4, 4), (8, 8), (16, 16))
CLIPS = layout((3, 4, 4), (3, 8, 8), (3, 16, 16))
STILLS = layout((1, 4, 4), (1, 8, 8), (1, 16, 16))
FACTS = BackboneFacts(LAYOUT, 2)
TOKENS = {LAYOUT: "2x2 = 4, 4x4 = 16, 8x8 = 64", CLIPS: "3x2x2 = 12, 3x4x4 = 48, 3x8x8 = 192"}
OF_THEM = pytest.mark.parametrize("of", [LAYOUT, CLIPS], ids=["images", "clips"])


def batch(
    visible: list[list[int]], of: StageLayout = LAYOUT
) -> tuple[Stages, torch.Tensor, torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    seen = torch.tensor(visible, dtype=torch.bool)
    stages = tuple(torch.randn(len(seen), *stage.shape, generator=generator) for stage in of)
    t = torch.where(seen, torch.rand(seen.shape, generator=generator), 0)
    return stages, t, seen, Conditioning(torch.randint(3, (len(seen),), generator=generator))


def awakened(network: torch.nn.Module) -> torch.nn.Module:
    """Weights that are not zero, so that outputs say something."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@OF_THEM
@torch.no_grad()
def test_pyramid_dit_is_a_plain_dit_on_every_stage(of: StageLayout) -> None:
    network = cast(PyramidDiT, awakened(PyramidDiT(PyramidDiTOptions(**TINY), BackboneFacts(of, 2))))
    finest = BackboneFacts(StageLayout(of.stages[2:]), 2)
    images, clips = DiTOptions(**TINY, patch_size=2), VideoDiTOptions(**TINY, patch_size=2)
    plain = DiT(images, finest).eval() if of == LAYOUT else VideoDiT(clips, finest).eval()
    plain.load_state_dict({name.removeprefix("network."): value for name, value in network.state_dict().items()})
    stages, t, visible, conditioning = batch([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]], of)
    velocities = network(stages, t, visible, conditioning)
    for row, stage in enumerate([0, 1, 2, 1]):
        one = Conditioning(conditioning.label[row : row + 1] if conditioning.label is not None else None)
        seen = torch.ones(1, 1, dtype=torch.bool)
        (want,) = plain((stages[stage][row : row + 1],), t[row : row + 1, stage : stage + 1], seen, one)
        torch.testing.assert_close(velocities[stage][row : row + 1], want)
        assert all(not velocities[other][row].any() for other in range(3) if other != stage)
    assert network.describe() == {"tokens": TOKENS[of], "patch": "2" if of == LAYOUT else "1x2x2"}


@OF_THEM
@torch.no_grad()
def test_each_sample_goes_to_the_network_of_its_finest_stage(of: StageLayout) -> None:
    network = cast(DiTExperts, awakened(DiTExperts(DiTExpertsOptions(**TINY), BackboneFacts(of, 2))))
    stages, t, visible, conditioning = batch([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]], of)
    velocities = network(stages, t, visible, conditioning)
    for row, finest in enumerate([2, 0, 1, 0]):
        own = [stage[row : row + 1] for stage in stages[: finest + 1]]
        one = Conditioning(conditioning.label[row : row + 1] if conditioning.label is not None else None)
        seen = visible[row : row + 1, : finest + 1]
        want = network.experts[finest](own, t[row : row + 1, : finest + 1], seen, one)
        for stage, value in enumerate(want):
            torch.testing.assert_close(velocities[stage][row : row + 1], value)


@pytest.mark.parametrize(("kind", "options"), [(DiTExperts, DiTExpertsOptions), (PyramidDiT, PyramidDiTOptions)])
def test_one_frame_is_the_network_of_images_bit_for_bit(kind: type[Backbone], options: type[ClipOptions]) -> None:
    image = awakened(kind(options(**TINY), FACTS))
    clip = awakened(kind(options(**TINY, rope_split=(0, 2, 2)), BackboneFacts(STILLS, 2)))
    assert list(clip.state_dict()) == list(image.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(clip.parameters(), image.parameters(), strict=True))
    shown = [[1, 1, 1], [1, 0, 0], [1, 1, 0]] if kind is DiTExperts else [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    stages, t, visible, conditioning = batch(shown)
    velocities = image(stages, t, visible, conditioning)
    of_clips = clip(tuple(stage[:, :, None] for stage in stages), t, visible, conditioning)
    assert all(torch.equal(flat[:, :, None], deep) for flat, deep in zip(velocities, of_clips, strict=True))
    for stages_of_one in (velocities, of_clips):
        torch.stack([velocity.square().mean() for velocity in stages_of_one]).sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(clip.parameters(), image.parameters(), strict=True))


@pytest.mark.parametrize("frames", [(2, 4), (3, 5)])
def test_the_networks_of_a_cascade_in_time_share_one_token_grid(frames: tuple[int, int]) -> None:
    of = layout((frames[0], 4, 4), (frames[1], 8, 8))
    first, second = DiTExperts(DiTExpertsOptions(**TINY), BackboneFacts(of, 2)).experts
    grid = f"{frames[0]}x4x4 = {frames[0] * 16}"
    assert first.describe() == {"tokens": grid, "patches": "1x1x1"}
    assert second.describe() == {"tokens": grid, "patches": "1x1x1, 2x2x2"}


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
    for refused in (odd, mixed):
        with pytest.raises(CompositionError, match="pyramid_dit: expected stages of the same channels"):
            PyramidDiT(PyramidDiTOptions(**TINY), BackboneFacts(refused, 0))
    apart = BackboneFacts(layout((4, 8, 8), (6, 16, 16)), 0)
    with pytest.raises(CompositionError, match="temporal_patch=6 does not fit a stage of 4 frames"):
        PyramidDiT(PyramidDiTOptions(**TINY, temporal_patch=6), apart)
    assert PyramidDiT(PyramidDiTOptions(**TINY, temporal_patch=2), apart).describe()["tokens"].startswith("2x4x4")


@pytest.mark.parametrize(("kind", "options"), [(DiTExperts, DiTExpertsOptions), (PyramidDiT, PyramidDiTOptions)])
def test_options_of_clips_are_refused_for_images(kind: type[Backbone], options: type[ClipOptions]) -> None:
    for name, value in {"attention": "factorised", "temporal_patch": 1, "rope_split": (0, 2, 2)}.items():
        with pytest.raises(CompositionError, match=rf"options.{name} is an option of clips, .*\(--frames\)"):
            kind(options(**{**TINY, "depth": 2, name: value}), FACTS)
    # Heads of four features have room for two axes alone.
    small = options(**{**TINY, "heads": 4})
    kind(small, FACTS)
    with pytest.raises(CompositionError, match="heads of 4 features are too small for three axes"):
        kind(small, BackboneFacts(CLIPS, 2))
