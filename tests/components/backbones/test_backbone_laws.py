"""The laws of backbones, over every built-in one."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from dfm_core.conformance import laws_of
from dfm_core.conformance.law import Law
from dfm_core.interfaces.backbone import BackboneFacts
from dfm_core.plugins import Options
from dfm_core.stages import StageLayout, StageShape
from dfm_plugins.backbones.specs import SPECS

TINY = {"depth": 2, "width": 16, "heads": 2}


def layout(*shapes: tuple[int, ...]) -> StageLayout:
    return StageLayout(tuple(StageShape(shape[1:], shape) for shape in shapes))


# One level of a two-dimensional transform: the details of a 32×32 preview are nine bands of 16×16.
COEFFICIENTS = StageLayout((StageShape((16, 16), (3, 16, 16)), StageShape((32, 32), (9, 16, 16))))

CASES: dict[str, tuple[StageLayout, int, dict[str, object]]] = {
    "one stage": (layout((3, 8, 8)), 3, {}),
    "two stages": (layout((3, 4, 4), (3, 8, 8)), 3, {}),
    "two stages, patches": (layout((3, 4, 4), (3, 8, 8)), 1, {"token_grid": 2, "qk_norm": True}),
    "three stages, unlabelled": (layout((1, 4, 4), (1, 8, 8), (1, 16, 16)), 0, {"positions": "rope"}),
    "three stages, not square": (layout((2, 4, 6), (2, 8, 12), (2, 32, 48)), 2, {"mlp_ratio": 2.0}),
    "coefficients": (COEFFICIENTS, 3, {"patch_size": 2}),
}

# The first frame is coded on its own: 1 + 2, 1 + 4.
CAUSAL = layout((2, 3, 4, 4), (2, 5, 8, 8))
CLIPS: dict[str, tuple[StageLayout, int, dict[str, object]]] = {
    "one stage": (layout((3, 3, 4, 4)), 3, {}),
    "two stages": (layout((3, 3, 4, 4), (3, 3, 8, 8)), 3, {"positions": "rope", "rope_split": [0, 2, 2]}),
    "also in time": (layout((3, 2, 4, 6), (3, 4, 8, 12)), 0, {"token_grid": 2, "qk_norm": True}),
    "factorised": (layout((1, 2, 2, 2), (1, 4, 4, 4), (1, 8, 16, 16)), 2, {"attention": "factorised"}),
    "causal": (CAUSAL, 1, {}),
    "temporal patches": (CAUSAL, 1, {"temporal_patch": 4, "attention": "factorised", "positions": "rope"}),
    "coefficients": (layout((3, 2, 4, 4), (9, 2, 4, 4)), 3, {}),
    "images": (layout((3, 1, 4, 4), (3, 1, 8, 8)), 3, {}),
}
BY_MEDIA = {"image": CASES, "video": CLIPS}
SITUATIONS = [(spec, media, case) for spec in SPECS for media in sorted(spec.media) for case in BY_MEDIA[media]]


@pytest.mark.parametrize("law", laws_of("backbone"), ids=lambda law: law.name)
@pytest.mark.parametrize(("spec", "media", "case"), SITUATIONS, ids=lambda part: getattr(part, "name", part))
def test_conforms(spec: Any, media: str, case: str, law: Law) -> None:
    if law.requires and not getattr(spec, law.requires):
        pytest.skip(f"{spec.name} does not declare {law.requires}")
    stages, classes, options = BY_MEDIA[media][case]
    if spec.name == "pyramid_dit":
        # One patch for all, and stages of the same channels.
        options = {name: value for name, value in options.items() if name != "token_grid"}
        if "temporal_patch" in options:
            options |= {"temporal_patch": 2}  # 4 frames do not divide the coarse stage's 1 + 2
        if case == "coefficients":
            pytest.skip("its stages differ in their channels")
    if spec.name == "dit_growing" and case == "three stages, not square":
        pytest.skip("no patch of 4x6 is whole in the token grid of a stage eight times as large")
    law.check(build(spec, {**TINY, **options}, BackboneFacts(stages, classes)))


@pytest.mark.parametrize("law", laws_of("backbone"), ids=lambda law: law.name)
def test_conforms_in_float64(law: Law) -> None:
    stages, classes, options = CASES["two stages, patches"]
    law.check(build(SPECS[0], {**TINY, **options}, BackboneFacts(stages, classes)).double())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_options_are_described_and_share_no_name_with_facts(spec: object) -> None:
    fields = spec.options.model_fields
    assert all(field.description for field in fields.values())
    assert not set(fields) & set(BackboneFacts.__dataclass_fields__)
    assert issubclass(spec.options, Options)


def build(spec: object, options: dict[str, object], facts: BackboneFacts) -> torch.nn.Module:
    module, name = spec.factory.split(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(importlib.import_module(module), name)(spec.options(**options), facts)
