"""A broken decomposition for every law, which breaks that law and no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from dfm_core.conformance import LawBroken, LawSkipped, laws_of
from dfm_core.errors import StageShapeError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.stages import StageLayout, Stages, StageShape
from dfm_plugins.decompositions import dwt
from dfm_plugins.decompositions.specs import WaveletOptions

LAWS = {law.name: law for law in laws_of("decomposition")}
CAPABILITIES = {"linear", "orthonormal", "critically_sampled", "zero_mean_details"}
FACTS = DecompositionFacts(((8, 12), (16, 24), (32, 48)), channels=2)
CLIPS = DecompositionFacts(((3, 8, 12), (3, 16, 24)), channels=2)
CAUSAL = DecompositionFacts(((3, 8, 12), (5, 16, 24)), channels=2)


class Good(dwt.WaveletTransform):
    """Haar bands: holds every law and capability. The broken ones change one thing, mostly the last stage."""

    lacks: frozenset[str] = frozenset()
    domain = "coefficients"
    built_for = FACTS

    def __init__(self) -> None:
        super().__init__(WaveletOptions.model_validate({"domain": self.domain}), self.built_for)

    def split(self, x: Tensor) -> tuple[Stages, Tensor]:
        """All stages but the last, and the last."""
        stages = super().decompose(x)
        return stages[:-1], stages[-1]

    def join(self, stages: Sequence[Tensor], change: Callable[[Tensor], Tensor]) -> Tensor:
        """Recompose; the last stage is changed if it is there."""
        if len(stages) != self.num_stages:
            return super().recompose(stages)
        super().recompose(stages)  # checks the shapes
        return super().recompose([*stages[:-1], change(stages[-1])])


class DeclaresOtherShapes(Good):
    def decompose(self, x: Tensor) -> Stages:
        others, last = self.split(x)
        return (*others, last.mT)

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        height, width = stages[0].shape[2:] if stages else (0, 0)
        turned = len(stages) == 3 and stages[2].shape[2:] == (2 * width, 2 * height)
        return super().recompose([*stages[:2], stages[2].mT] if turned else stages)


class LosesASign(Good):
    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        return self.join(stages, torch.neg)


class EnlargesPreviews(Good):
    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        preview = super().recompose(stages)
        for _ in range(len(FACTS.stage_sizes) - len(stages)):
            preview = preview.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return preview


class Aliases(Good):
    """Even columns left, odd columns right: the fastest wave becomes a slow one."""

    def decompose(self, x: Tensor) -> Stages:
        return super().decompose(torch.cat([x[..., ::2], x[..., 1::2]], dim=-1))

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        mixed = super().recompose(stages)
        if len(stages) < len(FACTS.stage_sizes):
            return mixed
        return torch.stack(mixed.chunk(2, dim=-1), dim=-1).flatten(-2)


class AddsAtDoubleGain(Good):
    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        return super().recompose(stages) * (1 if len(stages) == len(FACTS.stage_sizes) else 1.2)


class RefusesWhatIsNoImage(Good):
    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        result = super().recompose(stages)
        return result * torch.nan if result.abs().max() > 3 else result


class WritesIntoItsInput(Good):
    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        result = super().recompose(stages)
        stages[-1].data.mul_(1 + 2e-7)
        return result


class Remembers(Good):
    """Previews lean on the image that was decomposed last."""

    def decompose(self, x: Tensor) -> Stages:
        self.last = x
        return super().decompose(x)

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        preview = super().recompose(stages)
        first = stages[0].shape[0] == len(self.last) and len(stages) == 1
        return preview + 1e-7 * self.last.mean() if first else preview


class DrawsGlobally(Good):
    def decompose(self, x: Tensor) -> Stages:
        torch.rand(1)
        return super().decompose(x)


class MixesTheBatch(Good):
    def decompose(self, x: Tensor) -> Stages:
        others, last = self.split(x)
        return (*others, last.roll(1, 0))

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        return self.join(stages, lambda last: last.roll(-1, 0))


class AddsTheFirstSample(Good):
    """Stages of the second sample lean on the first one's, whose own are right."""

    lacks = frozenset({"orthonormal"})

    def decompose(self, x: Tensor) -> Stages:
        others, last = self.split(x)
        return (*others, torch.cat([last[:1], last[1:] + 0.5 * last[:1]]))

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        return self.join(stages, lambda last: torch.cat([last[:1], last[1:] - 0.5 * last[:1]]))


class MixesPreviews(Good):
    """Previews show some of another sample; the whole picture is right."""

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        preview = super().recompose(stages)
        other = preview.roll(1, 0)
        whole = len(stages) == self.num_stages
        return preview if whole else preview + 0.3 * (other - other.mean((2, 3), keepdim=True))


class Detaches(Good):
    def decompose(self, x: Tensor) -> Stages:
        return tuple(stage.detach() for stage in super().decompose(x))


class RaisesSomethingElse(Good):
    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        try:
            return super().recompose(stages)
        except StageShapeError as error:
            raise IndexError(str(error)) from error


class ReturnsSinglePrecision(Good):
    def decompose(self, x: Tensor) -> Stages:
        return tuple(s.float() if x.dtype.itemsize == 2 else s for s in super().decompose(x))


class StaysOnTheCPU(Good):
    def decompose(self, x: Tensor) -> Stages:
        others, last = self.split(x)
        return (*others, last if last.device.type == "cpu" else torch.zeros(last.shape))


class MultipliesUnderAutocast(Good):
    def decompose(self, x: Tensor) -> Stages:
        others, last = self.split(x)
        return (*others, last @ torch.eye(last.shape[-1], dtype=last.dtype))


class OnlyAtItsOwnSize(Good):
    def decompose(self, x: Tensor) -> Stages:
        if x.shape[2:] != FACTS.stage_sizes[-1]:
            raise StageShapeError(f"expected {FACTS.stage_sizes[-1]}, got {tuple(x.shape[2:])}")
        return super().decompose(x)


class TurnsWithTheMean(Good):
    def decompose(self, x: Tensor) -> Stages:
        others, last = self.split(x)
        return (*others, last * self.sign(others[0]))

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        return self.join(stages, lambda last: last * self.sign(stages[0]))

    @staticmethod
    def sign(coarsest: Tensor) -> Tensor:
        return torch.where(coarsest.mean((1, 2, 3), keepdim=True) < 0, -1.0, 1.0).to(coarsest.dtype)


class DoublesDetails(Good):
    def decompose(self, x: Tensor) -> Stages:
        others, last = self.split(x)
        return (*others, 2 * last)

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        return self.join(stages, lambda last: last / 2)


class RepeatsAStage(Good):
    lacks = frozenset({"orthonormal"})  # a redundant transform cannot be

    def layout(self, shape: Sequence[int]) -> StageLayout:
        *others, last = super().layout(shape)
        return StageLayout((*others, StageShape(last.resolution, (2 * last.shape[0], *last.shape[1:]))))

    def decompose(self, x: Tensor) -> Stages:
        stages = RepeatsAStage.plain().decompose(x)
        return (*stages[:-1], torch.cat([stages[-1]] * 2, dim=1))

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        if len(stages) != len(FACTS.stage_sizes):
            return RepeatsAStage.plain().recompose(stages)
        halves = stages[-1].tensor_split(2, dim=1)
        if halves[0].shape != halves[1].shape:
            raise StageShapeError(f"stage 3: expected twice the bands, got {tuple(stages[-1].shape)}")
        return RepeatsAStage.plain().recompose([*stages[:-1], torch.stack(halves).mean(0)])

    @staticmethod
    def plain() -> Good:
        return Good()


class LeaksTheMean(Good):
    lacks = frozenset({"orthonormal"})  # the mean is held twice

    def decompose(self, x: Tensor) -> Stages:
        others, last = self.split(x)
        return (*others, last + others[0].mean((1, 2, 3), keepdim=True))

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        return self.join(stages, lambda last: last - stages[0].mean((1, 2, 3), keepdim=True))


class GoodClips(Good):
    built_for = CLIPS


class GoodCausal(Good):
    lacks = frozenset({"orthonormal", "critically_sampled"})
    domain = "spatial"
    built_for = CAUSAL


class TurnsTheFrames(GoodClips):
    def decompose(self, x: Tensor) -> Stages:
        others, last = self.split(x)
        return (*others, last.roll(1, 2))

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        return self.join(stages, lambda last: last.roll(-1, 2))


class AddsTheFirstFrame(GoodCausal):
    def decompose(self, x: Tensor) -> Stages:
        others, last = self.split(x)
        return (*others, torch.cat([last[:, :, :1], last[:, :, 1:] + last[:, :, :1]], dim=2))

    def recompose(self, stages: Sequence[Tensor]) -> Tensor:
        return self.join(stages, lambda last: torch.cat([last[:, :, :1], last[:, :, 1:] - last[:, :, :1]], dim=2))


class NeedsSeveralFrames(GoodCausal):
    def decompose(self, x: Tensor) -> Stages:
        if x.shape[2] == 1:
            raise StageShapeError("a clip, not a picture")
        return super().decompose(x)


class ClaimsWholeStages(Good):
    whole_stages = True


BROKEN = {
    "shapes_as_declared": DeclaresOtherShapes,
    "perfect_reconstruction": LosesASign,
    "previews_have_their_resolution": EnlargesPreviews,
    "previews_go_coarse_to_fine": Aliases,
    "unit_gain": AddsAtDoubleGain,
    "accepts_arbitrary_stages": RefusesWhatIsNoImage,
    "inputs_unchanged": WritesIntoItsInput,
    "repeatable": DrawsGlobally,
    "samples_are_independent": MixesTheBatch,
    "gradients_flow": Detaches,
    "whole_stages_stand_alone": ClaimsWholeStages,
    "wrong_shapes_are_refused": RaisesSomethingElse,
    "dtype_follows_the_input": ReturnsSinglePrecision,
    "device_follows_the_input": StaysOnTheCPU,
    "unaffected_by_autocast": MultipliesUnderAutocast,
    "works_at_other_sizes": OnlyAtItsOwnSize,
    "linear": TurnsWithTheMean,
    "orthonormal": DoublesDetails,
    "critically_sampled": RepeatsAStage,
    "zero_mean_details": LeaksTheMean,
    "frames_are_split_on_their_own": TurnsTheFrames,
    "the_first_frame_is_a_picture": AddsTheFirstFrame,
}


def broken_laws(decomposition: Good, dtype: torch.dtype) -> dict[str, str]:
    broken = {}
    for law in LAWS.values():
        size = decomposition.built_for.stage_sizes[-1]
        noise = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        if law.requires in decomposition.lacks:
            continue
        try:
            law.check(decomposition, (2 * noise - 0.9).to(dtype))
        except LawBroken as error:
            broken[law.name] = str(error)
        except LawSkipped:
            assert law.name == "device_follows_the_input" or law.requires == "video"
    return broken


def test_every_law_has_a_breaker() -> None:
    assert set(BROKEN) == set(LAWS)
    assert {law.requires for law in LAWS.values()} - {None, "video"} == CAPABILITIES


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("unbroken", [Good, GoodClips, GoodCausal])
def test_the_unbroken_one_holds_every_law(unbroken: type[Good], dtype: torch.dtype) -> None:
    assert broken_laws(unbroken(), dtype) == {}


@pytest.mark.parametrize(("name", "breaker"), BROKEN.items(), ids=BROKEN)
def test_each_breaker_breaks_its_law_only(name: str, breaker: type[Good]) -> None:
    if name == "device_follows_the_input" and not torch.accelerator.is_available():
        pytest.skip("this machine has no accelerator")
    broken = broken_laws(breaker(), torch.float32)
    assert set(broken) == {name}
    assert "; " in broken[name] or "expected" in broken[name]


def test_a_decomposition_that_remembers_is_found() -> None:
    assert set(broken_laws(Remembers(), torch.float32)) == {"repeatable"}


@pytest.mark.parametrize("broken", [AddsTheFirstSample, MixesPreviews])
def test_every_sample_and_every_preview_is_looked_at(broken: type[Good]) -> None:
    found = broken_laws(broken(), torch.float32)
    assert set(found) == {"samples_are_independent"}
    assert "a sample depends on the others" in found["samples_are_independent"]


def test_one_frame_must_be_taken() -> None:
    broken = broken_laws(NeedsSeveralFrames(), torch.float32)
    assert set(broken) == {"the_first_frame_is_a_picture"}
    assert "a clip of one frame is refused (a clip, not a picture); take" in broken["the_first_frame_is_a_picture"]


def test_a_decomposition_that_stays_on_the_cpu_is_found_without_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cpu"))
    LAWS["device_follows_the_input"].check(Good(), torch.rand(2, 2, 32, 48))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    with pytest.raises(LawBroken, match="gives tensors on cpu, meta; use the device"):
        LAWS["device_follows_the_input"].check(StaysOnTheCPU(), torch.rand(2, 2, 32, 48))
