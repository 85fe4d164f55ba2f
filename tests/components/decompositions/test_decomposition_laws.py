"""Every law over every built-in decomposition, its options, one to four stages, images and clips, two precisions."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dfm_core.conformance import laws_of
from dfm_core.conformance.law import Law
from dfm_core.conformance.subject import subject_of
from dfm_core.interfaces.decomposition import Decomposition, DecompositionFacts
from dfm_core.plugins import DecompositionSpec
from dfm_core.stages import Size
from dfm_plugins.decompositions.specs import SPECS

LAWS = {law.name: law for law in laws_of("decomposition")}
BY_NAME = {spec.name: spec for spec in SPECS}

Sizes = tuple[Size, ...]
Setting = tuple[str, Mapping[str, str | int], list[Sizes]]

DYADIC: list[Sizes] = [
    ((16, 16),),
    ((8, 12), (16, 24)),
    ((8, 8), (16, 16), (32, 32)),
    ((4, 6), (8, 12), (16, 24), (32, 48)),
]
WIDE: list[Sizes] = [((8, 8), (32, 32)), ((4, 6), (8, 12), (32, 48))]
ANY_RATIO: list[Sizes] = [((10, 15), (16, 24)), ((5, 8), (15, 16), (32, 48))]
FOURTHS: list[Sizes] = [
    ((16, 24),),
    ((8, 8), (32, 32)),
    ((8, 12), (24, 36), (32, 48)),
    ((8, 8), (16, 16), (24, 24), (32, 32)),
]
EIGHTHS: list[Sizes] = [((8, 8), (32, 32)), ((4, 6), (12, 18), (20, 30), (32, 48))]

# Each frame on its own; plain time grids, with space, without it, in steps of their own; causal ones.
ON_THEIR_OWN: list[Sizes] = [((3, 8, 8),), ((2, 4, 6), (2, 8, 12), (2, 16, 24))]
IN_TIME: list[Sizes] = [((4, 4, 6), (8, 16, 24)), ((4, 8, 8), (4, 16, 16), (8, 16, 16))]
HALVED: list[Sizes] = [((4, 4, 6), (8, 8, 12)), ((1, 4, 4), (4, 16, 16), (8, 16, 16)), ((2, 8, 8), (8, 8, 8))]
CAUSAL: list[Sizes] = [((2, 4, 6), (3, 8, 12), (5, 16, 24)), ((3, 8, 8), (5, 8, 8))]
FOURTHS_IN_TIME: list[Sizes] = [((2, 4, 4), (6, 12, 12), (8, 16, 16)), ((4, 5, 5), (8, 5, 5))]

SETTINGS: list[Setting] = [
    ("identity", {}, [((16, 16),), ((16, 24),), ((3, 8, 8),)]),
    *(("laplacian", {"filter": name}, [*DYADIC, *WIDE, *ANY_RATIO]) for name in ("area", "bilinear", "bicubic")),
    ("laplacian", {"filter": "gaussian"}, [DYADIC[3], *WIDE, *ANY_RATIO]),
    ("laplacian", {"up": "nearest"}, [DYADIC[2], *ANY_RATIO]),
    *(("dwt", {"wavelet": name}, [*DYADIC, *WIDE]) for name in ("haar", "db2")),
    *(("dwt", {"wavelet": name}, WIDE) for name in ("sym4", "bior2.2", "coif3", "dmey")),
    *(("dwt", {"wavelet": name, "domain": "coefficients"}, [*DYADIC, *WIDE]) for name in ("haar", "db2")),
    *(("dwt", {"wavelet": name, "domain": "coefficients"}, WIDE) for name in ("sym4", "bior2.2", "rbio3.5", "db20")),
    ("dct", {}, [*DYADIC, *WIDE, *ANY_RATIO]),
    ("dct", {"block": 4}, FOURTHS),
    ("dct", {"block": 4, "domain": "coefficients"}, FOURTHS),
    ("dct", {"block": 8}, EIGHTHS),
    ("dct", {"block": 8, "domain": "coefficients"}, EIGHTHS),
    ("fourier", {}, [*DYADIC, *WIDE, *ANY_RATIO]),
    ("laplacian", {"time_grid": "auto"}, [*ON_THEIR_OWN, *IN_TIME, *CAUSAL]),
    ("laplacian", {"filter": "bicubic", "time_grid": "plain"}, [IN_TIME[0], ((4, 5, 8), (6, 15, 16))]),
    ("laplacian", {"filter": "gaussian", "time_grid": "causal"}, [((3, 5, 8), (6, 15, 16))]),
    ("dwt", {"time_grid": "auto"}, [*ON_THEIR_OWN, *HALVED, *CAUSAL]),
    ("dwt", {"wavelet": "db2", "time_grid": "causal"}, [((3, 6, 4), (5, 12, 8)), ((3, 4, 4), (9, 16, 16))]),
    ("dwt", {"domain": "coefficients", "time_grid": "plain"}, [*ON_THEIR_OWN, *HALVED]),
    ("dwt", {"wavelet": "bior2.2", "domain": "coefficients", "time_grid": "plain"}, HALVED[:2]),
    ("dct", {"time_grid": "auto"}, [*ON_THEIR_OWN, *IN_TIME, *CAUSAL]),
    ("dct", {"block": 4, "time_grid": "auto"}, [*FOURTHS_IN_TIME, ((5, 8, 8), (9, 16, 16))]),
    ("dct", {"block": 4, "domain": "coefficients", "time_grid": "plain"}, [((3, 4, 8), (3, 8, 16)), *FOURTHS_IN_TIME]),
    ("fourier", {"time_grid": "auto"}, [*ON_THEIR_OWN, *IN_TIME, *CAUSAL]),
    ("downsampled", {}, [*DYADIC, *WIDE, *ANY_RATIO]),
    ("downsampled", {"time_grid": "auto"}, [*ON_THEIR_OWN, *IN_TIME, *CAUSAL]),
    ("downsampled", {"time_grid": "plain"}, [((4, 5, 8), (6, 15, 16))]),
]


def build(name: str, options: Mapping[str, str | int], sizes: Sizes, channels: int = 3) -> Decomposition:
    module, class_name = BY_NAME[name].factory.split(":")
    factory: Callable[..., Decomposition] = getattr(importlib.import_module(module), class_name)
    return factory(BY_NAME[name].options.model_validate(dict(options)), DecompositionFacts(sizes, channels))


def image(size: Size, dtype: torch.dtype, channels: int = 3) -> Tensor:
    """Noise in [-1, 1], two samples."""
    noise = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return (2 * noise - 1).to(dtype)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join([s[0], *map(str, s[1].values())]))
def test_decomposition_holds_law(law: Law, setting: Setting) -> None:
    name, options, all_sizes = setting
    if law.requires and not subject_of(name, "decomposition", options).declares(law.requires):
        pytest.skip(f"{name} does not declare {law.requires} with these options")
    if law.name == "device_follows_the_input" and not torch.accelerator.is_available():
        pytest.skip("this machine has no accelerator")
    for index, sizes in enumerate(all_sizes):
        if law.requires == "video" and not concerned(law, sizes, options):
            continue
        for dtype in (torch.float32, torch.float64):
            channels = 1 + index % 4
            law.check(build(name, options, sizes, channels), image(sizes[-1], dtype, channels))


def concerned(law: Law, sizes: Sizes, options: Mapping[str, object]) -> bool:
    """Whether a law of clips is about such stages."""
    frames = [size[0] for size in sizes if len(size) == 3]
    if not frames:
        return False
    if law.name == "frames_are_split_on_their_own":
        return frames[0] == frames[-1]
    return options.get("time_grid") == "causal" or (frames[-1] % frames[0] != 0 and options.get("time_grid") == "auto")


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_built_in_is_tested_with_one_to_four_stages(spec: DecompositionSpec) -> None:
    tested = {len(sizes) for name, _, all_sizes in SETTINGS if name == spec.name for sizes in all_sizes}
    assert tested == ({1} if spec.name == "identity" else {1, 2, 3, 4})


def test_previews_of_a_picture_come_nearer_to_it_stage_by_stage() -> None:
    position = torch.linspace(-1, 1, 32, dtype=torch.float64)
    disc = ((position[:, None] ** 2 + (position[None] - 0.2) ** 2) < 0.3).to(torch.float64).expand(1, 3, 32, 32)
    for name, options, all_sizes in SETTINGS:
        for sizes in (sizes for sizes in all_sizes if sizes[-1] == (32, 32) and len(sizes) > 2):
            decomposition = build(name, options, sizes)
            stages = decomposition.decompose(disc)
            previews = [decomposition.recompose(stages[: index + 1]) for index in range(len(stages))]
            errors = [(torch.nn.functional.interpolate(p, (32, 32), mode="bilinear") - disc).norm() for p in previews]
            assert all(coarse > fine for coarse, fine in pairwise(errors)), (name, options, errors)
            assert errors[-1] < 1e-8
