"""A small honest backbone holds every law; each way of breaking one breaks that law and no other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from dfm_core.conformance import LawBroken, laws_of
from dfm_core.interfaces.backbone import Backbone, BackboneFacts, Conditioning
from dfm_core.plugins import Options
from dfm_core.stages import StageLayout, Stages, StageShape

HIDDEN = 8
FACTS = BackboneFacts(StageLayout((StageShape((4, 4), (2, 4, 4)), StageShape((8, 8), (3, 8, 8)))), num_classes=3)
CLIPS = BackboneFacts(
    StageLayout((StageShape((2, 4, 4), (2, 2, 4, 4)), StageShape((3, 8, 8), (3, 3, 8, 8)))), num_classes=3
)
"""Frames as in a causal grid: 1 + 1 and 1 + 2."""


def over(x: Tensor, stage: Tensor) -> Tensor:
    """x with axes of length 1 for those of the stage that it lacks."""
    return x.reshape(*x.shape, *[1] * (stage.ndim - x.ndim))


class Honest(Backbone):
    """Mixes the channels of each stage; adds a vector made of the means of all visible stages and the conditioning."""

    def __init__(self, options: Options, facts: BackboneFacts) -> None:
        super().__init__(options, facts)
        channels = [stage.shape[0] for stage in facts.layout]
        self.mix = nn.ModuleList(nn.Linear(count, count) for count in channels)
        self.read = nn.ModuleList(nn.Linear(count, HIDDEN) for count in channels)
        self.clock = nn.ModuleList(nn.Linear(1, HIDDEN) for _ in channels)
        self.write = nn.ModuleList(nn.Linear(HIDDEN, count) for count in channels)
        self.index = nn.Embedding(len(channels) + 1, HIDDEN)
        self.label = nn.Embedding(facts.num_classes + 1, HIDDEN)

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        shown = [self.shown(stage, visible[:, index]) for index, stage in enumerate(noisy_stages)]
        parts = [
            visible[:, i, None] * (self.read[i](stage.flatten(2).mean(2)) + self.clock[i](self.time(t, i)))
            for i, stage in enumerate(shown)
        ]
        label = conditioning.label
        if label is None:
            label = torch.full((len(t),), self.facts.num_classes)
        contexts = self.contexts(parts, self.index(visible.sum(1)), self.embed_label(label))
        velocities = [
            self.mixed(self.mix[i], stage, visible[:, i]) + over(self.write[i](contexts[i].tanh()), stage)
            for i, stage in enumerate(shown)
        ]
        return tuple(self.finish(v, stage) for v, stage in zip(velocities, noisy_stages, strict=True))

    def shardable_blocks(self) -> Sequence[nn.Module]:
        return list(self.mix)

    def shown(self, stage: Tensor, visible: Tensor) -> Tensor:
        return torch.where(over(visible, stage), stage, 0)

    def mixed(self, block: nn.Module, stage: Tensor, visible: Tensor) -> Tensor:
        return block(stage.movedim(1, -1)).movedim(-1, 1)

    def time(self, t: Tensor, index: int) -> Tensor:
        return t[:, index, None]

    def embed_label(self, label: Tensor) -> Tensor:
        return self.label(label)

    def contexts(self, parts: list[Tensor], index: Tensor, label: Tensor) -> list[Tensor]:
        return [sum(parts) + index + label] * len(parts)

    def finish(self, velocity: Tensor, stage: Tensor) -> Tensor:
        return velocity.to(stage.dtype)


class AnswersInDouble(Honest):
    def finish(self, velocity: Tensor, stage: Tensor) -> Tensor:
        return velocity.double()


class MultipliesByTheMask(Honest):
    def shown(self, stage: Tensor, visible: Tensor) -> Tensor:
        return stage * over(visible, stage)


class AddsTheBatchMean(Honest):
    def contexts(self, parts: list[Tensor], index: Tensor, label: Tensor) -> list[Tensor]:
        return [c + 0.5 * c.mean(0) for c in super().contexts(parts, index, label)]


class HasAnIdleParameter(Honest):
    def __init__(self, options: Options, facts: BackboneFacts) -> None:
        super().__init__(options, facts)
        self.idle = nn.Parameter(torch.zeros(3))


class IgnoresTheLastClock(Honest):
    def time(self, t: Tensor, index: int) -> Tensor:
        return super().time(t, index) if index == 0 else torch.full_like(t[:, :1], 0.5)


class SeesOneStageAtATime(Honest):
    def contexts(self, parts: list[Tensor], index: Tensor, label: Tensor) -> list[Tensor]:
        return [part + label + self.index.weight.sum(0) for part in parts]


class TakesOneLabelForAnother(Honest):
    """All but the first, the last and none: nobody looks there by chance."""

    def embed_label(self, label: Tensor) -> Tensor:
        return self.label(torch.where(label == 1, 0, label)) + 0 * self.label.weight.sum(0)


class IgnoresTheLabel(Honest):
    def embed_label(self, label: Tensor) -> Tensor:
        return self.label.weight.sum(0)


class KeepsStateElsewhere(Honest):
    built = itertools.count(1)

    def __init__(self, options: Options, facts: BackboneFacts) -> None:
        super().__init__(options, facts)
        self.scale = next(self.built)

    def finish(self, velocity: Tensor, stage: Tensor) -> Tensor:
        return super().finish(velocity * self.scale, stage)


class OverflowsInBfloat16(Honest):
    def finish(self, velocity: Tensor, stage: Tensor) -> Tensor:
        large = 1e38 if velocity.dtype == torch.bfloat16 else 1.0
        return super().finish(velocity * large * large, stage)


class KnowsOneSize(Honest):
    def __init__(self, options: Options, facts: BackboneFacts) -> None:
        super().__init__(options, facts)
        self.place = nn.ParameterList(torch.zeros(stage.shape) for stage in facts.layout)

    def shown(self, stage: Tensor, visible: Tensor) -> Tensor:
        place = next(p for p in self.place if p.shape[0] == stage.shape[1])
        return super().shown(stage, visible) + place


class KnowsOneNumberOfFrames(Honest):
    def shown(self, stage: Tensor, visible: Tensor) -> Tensor:
        frames = {shape.shape[0]: shape.resolution[:-2] for shape in self.facts.layout}[stage.shape[1]]
        return super().shown(stage, visible).reshape(*stage.shape[:2], *frames, *stage.shape[-2:])


class TakesNoImages(Honest):
    def shown(self, stage: Tensor, visible: Tensor) -> Tensor:
        if stage.shape[2] == 1:
            raise ValueError("one frame is no clip")
        return super().shown(stage, visible)


class DrawsNoise(Honest):
    def finish(self, velocity: Tensor, stage: Tensor) -> Tensor:
        torch.rand(())
        return super().finish(velocity, stage)


class WritesIntoItsInput(Honest):
    def shown(self, stage: Tensor, visible: Tensor) -> Tensor:
        return stage.masked_fill_(~over(visible, stage), 0)


class SkipsTheBlocksOfInvisibleStages(Honest):
    def mixed(self, block: nn.Module, stage: Tensor, visible: Tensor) -> Tensor:
        return super().mixed(block, stage, visible) if visible.any() else torch.zeros_like(stage)


class SkipsABlockInTraining(Honest):
    def mixed(self, block: nn.Module, stage: Tensor, visible: Tensor) -> Tensor:
        return stage if self.training and block is self.mix[0] else super().mixed(block, stage, visible)


class CallsItsBlocksTwice(Honest):
    def mixed(self, block: nn.Module, stage: Tensor, visible: Tensor) -> Tensor:
        return super().mixed(block, super().mixed(block, stage, visible), visible)


class CallsTheForwardOfItsBlocks(Honest):
    def mixed(self, block: nn.Module, stage: Tensor, visible: Tensor) -> Tensor:
        return super().mixed(block.forward, stage, visible)


class NamesItsBlocksBackwards(Honest):
    def shardable_blocks(self) -> Sequence[nn.Module]:
        return list(self.mix)[::-1]


class NamesABlockTwice(Honest):
    def shardable_blocks(self) -> Sequence[nn.Module]:
        return [*self.mix, self.mix[0]]


class NamesABlockThatIsNotItsOwn(Honest):
    def shardable_blocks(self) -> Sequence[nn.Module]:
        return [*self.mix, nn.Linear(1, 1)]


BREAKERS = {
    Honest: set(),
    AnswersInDouble: {"keeps_shapes"},
    MultipliesByTheMask: {"ignores_invisible_stages"},
    AddsTheBatchMean: {"keeps_samples_apart"},
    HasAnIdleParameter: {"trains_every_parameter"},
    IgnoresTheLastClock: {"depends_on_time"},
    SeesOneStageAtATime: {"depends_on_visible_stages"},
    IgnoresTheLabel: {"depends_on_label"},
    TakesOneLabelForAnother: {"depends_on_label"},
    KeepsStateElsewhere: {"survives_state_dict"},
    OverflowsInBfloat16: {"runs_in_bfloat16"},
    KnowsOneSize: {"works_at_other_sizes"},
    DrawsNoise: {"uses_no_global_randomness"},
    WritesIntoItsInput: {"leaves_inputs_alone"},
    SkipsTheBlocksOfInvisibleStages: {"runs_each_block_once"},
    SkipsABlockInTraining: {"runs_each_block_once"},
    CallsItsBlocksTwice: {"runs_each_block_once"},
    CallsTheForwardOfItsBlocks: {"runs_each_block_once"},
    NamesItsBlocksBackwards: {"runs_each_block_once"},
    NamesABlockTwice: {"runs_each_block_once"},
    NamesABlockThatIsNotItsOwn: {"runs_each_block_once"},
}


BREAKERS_OF_CLIPS = {
    Honest: set(),
    KnowsOneNumberOfFrames: BREAKERS[KnowsOneSize],
    TakesNoImages: BREAKERS[KnowsOneSize],
}


@pytest.mark.parametrize(
    ("backbone", "facts", "laws"),
    [
        *((backbone, FACTS, laws) for backbone, laws in BREAKERS.items()),
        *((backbone, CLIPS, laws) for backbone, laws in BREAKERS_OF_CLIPS.items()),
    ],
)
def test_breaks_exactly_its_law(backbone: type[Backbone], facts: BackboneFacts, laws: set[str]) -> None:
    assert broken_laws(backbone(Options(), facts)) == laws


def broken_laws(backbone: Backbone) -> set[str]:
    broken = set()
    for law in laws_of("backbone"):
        try:
            law.check(backbone)
        except LawBroken:
            broken.add(law.name)
    return broken


def test_what_breaks_for_clips_alone_holds_for_images() -> None:
    assert not broken_laws(KnowsOneNumberOfFrames(Options(), FACTS))


def test_every_law_has_its_breaker() -> None:
    assert set().union(*BREAKERS.values()) == {law.name for law in laws_of("backbone")}


def test_laws_leave_the_backbone_and_the_global_state_alone() -> None:
    built = Honest(Options(), FACTS)
    kept = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    state = torch.get_rng_state()
    for law in laws_of("backbone"):
        law.check(built)
    assert torch.equal(state, torch.get_rng_state())
    assert built.training
    assert all(torch.equal(kept[name], tensor) for name, tensor in built.state_dict().items())
    assert all(parameter.grad is None for parameter in built.parameters())
