"""ResidualPyramid: what it makes of a pair (down, up), and which tensors it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dfm_core.errors import StageShapeError, StageSizeError
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.plugins import Options, TimeGrid
from dfm_core.residual_pyramid import ResidualPyramid, exact_arithmetic
from dfm_core.stages import Size
from dfm_core.time_grid import is_causal


class Nonlinear(ResidualPyramid):
    """Any pair reconstructs: here a maximum and an uneven enlargement."""

    def down(self, x: Tensor, size: Size) -> Tensor:
        return F.adaptive_max_pool2d(x, size)

    def up(self, x: Tensor, size: Size) -> Tensor:
        return F.interpolate(x, size, mode="nearest").tanh()


class Subsampled(ResidualPyramid):
    """In any number of dimensions."""

    def down(self, x: Tensor, size: Size) -> Tensor:
        for axis, length in enumerate(size, start=2):
            x = x.unflatten(axis, (length, -1)).mean(axis + 1)
        return x

    def up(self, x: Tensor, size: Size) -> Tensor:
        for axis, length in enumerate(size, start=2):
            x = x.repeat_interleave(length // x.shape[axis], axis)
        return x


class Recording(Subsampled):
    """Remembers what it was asked for."""

    def __init__(self, facts: DecompositionFacts) -> None:
        super().__init__(Options(), facts)
        self.asked: list[tuple[str, Size, Size, torch.dtype, bool]] = []

    def note(self, what: str, x: Tensor, size: Size) -> None:
        self.asked.append((what, tuple(x.shape[2:]), size, x.dtype, torch.is_autocast_enabled("cpu")))

    def down(self, x: Tensor, size: Size) -> Tensor:
        self.note("down", x, size)
        return super().down(x, size)

    def up(self, x: Tensor, size: Size) -> Tensor:
        self.note("up", x, size)
        return super().up(x, size)


THREE = DecompositionFacts(((4, 6), (8, 12), (16, 24)), channels=2)


def image(*size: int) -> Tensor:
    return torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_any_pair_reconstructs_exactly() -> None:
    decomposition = Nonlinear(Options(), THREE)
    x = image(16, 24)
    assert (decomposition.recompose(decomposition.decompose(x)) - x).abs().max() < 1e-15


def test_stages_follow_equation_2() -> None:
    decomposition = Subsampled(Options(), THREE)
    x = image(16, 24)
    low, middle = F.avg_pool2d(x, 4), F.avg_pool2d(x, 2)
    expected = (low, middle - low.repeat_interleave(2, 2).repeat_interleave(2, 3))
    stages = decomposition.decompose(x)
    for stage, want in zip(stages, expected, strict=False):
        torch.testing.assert_close(stage, want)
    for count, preview in enumerate((low, middle, x), start=1):
        torch.testing.assert_close(decomposition.recompose(stages[:count]), preview)


def test_every_low_pass_is_of_the_input_and_the_finest_is_the_input() -> None:
    decomposition = Recording(THREE)
    decomposition.decompose(image(16, 24))
    assert [call[:3] for call in decomposition.asked] == [
        ("down", (16, 24), (4, 6)),
        ("down", (16, 24), (8, 12)),
        ("up", (4, 6), (8, 12)),
        ("up", (8, 12), (16, 24)),
    ]


def test_down_and_up_see_single_precision_outside_autocast() -> None:
    decomposition = Recording(THREE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stages = decomposition.decompose(image(16, 24).bfloat16())
        x = decomposition.recompose(stages)
    assert {call[3:] for call in decomposition.asked} == {(torch.float32, False)}
    assert {stage.dtype for stage in (*stages, x)} == {torch.bfloat16}


def test_one_stage_is_the_input() -> None:
    decomposition = Recording(DecompositionFacts(((16, 24),), 2))
    x = image(16, 24)
    (stage,) = decomposition.decompose(x)
    assert torch.equal(stage, x)
    assert torch.equal(decomposition.recompose([stage]), x)
    assert decomposition.asked == []


@pytest.mark.parametrize("sizes", [((8,), (32,)), ((2, 4, 4), (4, 8, 8), (4, 16, 16))], ids=str)
def test_any_number_of_dimensions(sizes: tuple[Size, ...]) -> None:
    decomposition = Subsampled(Options(), DecompositionFacts(sizes, 2))
    for scale in (1, 2):
        x = image(*(scale * length for length in sizes[-1]))
        stages = decomposition.decompose(x)
        assert [stage.shape[2:] for stage in stages] == [tuple(scale * length for length in size) for size in sizes]
        torch.testing.assert_close(decomposition.recompose(stages), x)


def clip(frames: int, *size: int) -> Tensor:
    return image(frames, *size)


def test_a_pair_for_images_splits_clips_of_equal_frame_counts() -> None:
    sizes = ((3, 4, 6), (3, 8, 12), (3, 16, 24))
    decomposition = Nonlinear(Options(), DecompositionFacts(sizes, 2))
    for frames in (3, 1, 5):
        x = clip(frames, 16, 24)
        stages = decomposition.decompose(x)
        assert [tuple(stage.shape) for stage in stages] == [(3, 2, frames, *size[1:]) for size in sizes]
        assert (decomposition.recompose(stages) - x).abs().max() < 1e-15
        for frame in range(frames):
            alone = Nonlinear(Options(), THREE).decompose(x[:, :, frame])
            assert all(torch.equal(stage[:, :, frame], image) for stage, image in zip(stages, alone, strict=True))


def test_what_down_and_up_see_of_a_clip() -> None:
    def calls(*sizes: Size) -> list[tuple[str, Size, Size]]:
        decomposition = Recording(DecompositionFacts(sizes, 2))
        decomposition.recompose(decomposition.decompose(clip(*sizes[-1])))
        return [call[:3] for call in decomposition.asked]

    assert calls((4, 8, 8), (4, 16, 16))[:2] == [("down", (16, 16), (8, 8)), ("up", (8, 8), (16, 16))]
    assert calls((2, 8, 8), (4, 16, 16))[:2] == [("down", (4, 16, 16), (2, 8, 8)), ("up", (2, 8, 8), (4, 16, 16))]
    image_calls, clip_calls = [("down", (16, 16), (8, 8)), ("up", (8, 8), (16, 16))], calls((2, 8, 8), (4, 16, 16))[:2]
    assert calls((3, 8, 8), (5, 16, 16))[:4] == [*image_calls, *clip_calls]
    # Where only time changes, the first frame is in the first stage whole, and nobody resizes it.
    assert {call[1:] for call in calls((3, 8, 8), (5, 8, 8))} == {((4, 8, 8), (2, 8, 8)), ((2, 8, 8), (4, 8, 8))}


def test_sizes_on_a_causal_time_grid() -> None:
    decomposition = Subsampled(Options(), DecompositionFacts(((2, 4, 4), (3, 8, 8), (5, 16, 16)), 2))
    assert decomposition.causal
    for frames, expected in ((5, [2, 3, 5]), (1, [1, 1, 1]), (9, [3, 5, 9]), (17, [5, 9, 17])):
        x = clip(frames, 32, 16)
        assert [size[0] for size in decomposition.scaled_sizes((frames, 32, 16))] == expected
        stages = decomposition.decompose(x)
        assert [stage.shape[2] for stage in stages] == expected
        torch.testing.assert_close(decomposition.recompose(stages), x)
        for count in (1, 2):
            assert decomposition.recompose(stages[:count]).shape[2] == expected[count - 1]
    with pytest.raises(StageShapeError, match=r"8x16x16: stage 2x4x4 of 5x16x16 .*the stages \(less the first frame\)"):
        decomposition.decompose(clip(8, 16, 16))
    with pytest.raises(StageShapeError, match="3 spatial dimensions"):
        decomposition.scaled_sizes((0, 16, 16))


def test_stages_that_belong_to_no_causal_clip_are_refused() -> None:
    decomposition = Subsampled(Timed(time_grid="causal"), DecompositionFacts(((5, 4, 4), (7, 8, 8)), 2))
    assert decomposition.recompose([torch.zeros(1, 2, 3, 4, 4)]).shape == (1, 2, 3, 4, 4)
    with pytest.raises(StageShapeError, match="stage 1 of size 4x4x4 belongs to no input: built for 5x4x4"):
        decomposition.recompose([torch.zeros(1, 2, 4, 4, 4)])
    with pytest.raises(StageShapeError, match=r"stage 2: expected \(B, 2, 4, 8, 8\)"):
        decomposition.recompose([torch.zeros(1, 2, 3, 4, 4), torch.zeros(1, 2, 5, 8, 8)])


def test_plain_sizes_and_back() -> None:
    for sizes, plain in (
        (((4, 6), (8, 12)), [(4, 6), (8, 12)]),
        (((3, 4, 6), (3, 8, 12)), [(4, 6), (8, 12)]),
        (((3, 4, 6), (6, 8, 12)), [(3, 4, 6), (6, 8, 12)]),
        (((3, 4, 6), (5, 8, 12)), [(2, 4, 6), (4, 8, 12)]),
    ):
        decomposition = Subsampled(Options(), DecompositionFacts(sizes, 2))
        assert decomposition.plain_sizes(sizes) == plain
        assert [decomposition.whole_size(size) for size in plain] == list(sizes)


class Timed(Options):
    time_grid: TimeGrid = "plain"


def test_the_option_decides_and_without_it_the_frame_counts() -> None:
    sizes = ((3, 4, 4), (9, 8, 8))
    assert not Subsampled(Options(), DecompositionFacts(sizes, 2)).causal  # 3 divides 9
    assert Subsampled(Timed(time_grid="causal"), DecompositionFacts(sizes, 2)).causal
    assert not Subsampled(Timed(), DecompositionFacts(((3, 4, 4), (5, 8, 8)), 2)).causal
    # Images, and clips of equal frame counts, have no time to divide.
    assert not Subsampled(Timed(time_grid="causal"), THREE).causal
    assert not Subsampled(Timed(time_grid="causal"), DecompositionFacts(((5, 4, 4), (5, 8, 8)), 2)).causal
    with pytest.raises(StageSizeError, match="got 1x4x4, 5x8x8; begin with 2x4x4 or more frames, or .*=plain"):
        Subsampled(Timed(time_grid="causal"), DecompositionFacts(((1, 4, 4), (5, 8, 8)), 2))
    assert Subsampled(Timed(), DecompositionFacts(((1, 4, 4), (5, 8, 8)), 2)).scaled_sizes((10, 8, 8))[0] == (2, 4, 4)


@pytest.mark.parametrize(
    ("frames", "causal"),
    [
        ((3, 5), True),
        ((2, 3, 5), True),
        ((5, 5, 9), True),
        ((2, 5), True),
        ((4, 8), False),
        ((3, 9), False),
        ((1, 5), False),
        ((1, 2), False),
        ((5, 8), False),
        ((3, 5, 10), False),
        ((7, 7), False),
    ],
    ids=str,
)
def test_auto_is_causal_where_only_the_frames_after_the_first_divide(frames: tuple[int, ...], causal: bool) -> None:
    assert is_causal("auto", [(count, 4, 4) for count in frames]) == causal


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (((8, 8), (8, 8)), "must grow from coarse to fine, got 8, 8; for example 8"),
        (((8, 8), (4, 4)), "got 8, 4; for example 4, 8"),
        (((8, 8), (4, 16)), "must grow from coarse to fine, got 8, 4x16$"),
        (((0, 8), (4, 16)), "positive sizes"),
        (((8,), (4, 16)), "of the same dimension"),
        ((), "got none"),
    ],
    ids=str,
)
def test_sizes_that_do_not_grow_are_refused(sizes: tuple[Size, ...], message: str) -> None:
    with pytest.raises(StageSizeError, match=message):
        Subsampled(Options(), DecompositionFacts(sizes, 2))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 3, 16, 24), "expected an input of 2 channels and 2 spatial dimensions, got .3, 16, 24."),
        ((3, 2, 16), "expected an input of 2 channels"),
        ((3, 2, 18, 24), "stage 4x6 of 16x24 is not a whole size"),
    ],
    ids=str,
)
def test_inputs_of_other_shapes_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(StageShapeError, match=message):
        Subsampled(Options(), THREE).decompose(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "expected 1 to 3 stages, got 0"),
        ([(3, 2, 4, 6)] * 4, "expected 1 to 3 stages, got 4"),
        ([(3, 2, 4)], "stage 1: expected .*2 spatial sizes"),
        ([(3, 2, 0, 6)], "stage 1: expected"),
        ([(3, 2, 4, 6), (3, 2, 8, 13)], r"stage 2: expected \(B, 2, 8, 12\) from the layout, got \(3, 2, 8, 13\)"),
        ([(3, 2, 4, 6), (3, 1, 8, 12)], r"stage 2: expected \(B, 2, 8, 12\)"),
        ([(3, 1, 4, 6)], r"stage 1: expected \(B, 2, 4, 6\)"),
        ([(3, 2, 4, 6), (2, 2, 8, 12)], r"different batch sizes: \[3, 2\]"),
    ],
    ids=str,
)
def test_stages_of_other_shapes_are_refused(shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(StageShapeError, match=message):
        Subsampled(Options(), THREE).recompose([torch.zeros(shape) for shape in shapes])


def test_a_stage_that_belongs_to_no_input_is_refused() -> None:
    decomposition = Subsampled(Options(), DecompositionFacts(((4, 4), (6, 6)), 2))
    with pytest.raises(StageShapeError, match="stage 1 of size 5 belongs to no input: built for 4"):
        decomposition.recompose([torch.zeros(1, 2, 5, 5)])


def test_precision_settings_come_back_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with pytest.raises(RuntimeError, match="while highest"), exact_arithmetic(torch.device("cpu")):
            raise RuntimeError(f"while {torch.get_float32_matmul_precision()}")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_device_without_autocast_is_no_obstacle() -> None:
    stages = Subsampled(Options(), THREE).decompose(torch.zeros(1, 2, 16, 24, device="meta"))
    assert [stage.device.type for stage in stages] == ["meta"] * 3
