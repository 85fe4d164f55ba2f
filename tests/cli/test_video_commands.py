"""Clips through every command: trained, sampled, decomposed, encoded, resumed, exported; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pywt
import torch
from command_tools import TINY, Dfm, Rejected, write_picture
from PIL import Image, ImageSequence

from dfm_core.cli.app import main
from dfm_core.clips import read_clip, write_gif, write_mp4
from dfm_core.model import load

CLIPS = [*TINY, "--dataset", "moving_shapes", "--backbone", "video_dit"]
SHORT = ["--steps", "3,2", "--device", "cpu"]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps on clips of four frames, with a sample grid. Not to be changed."""
    path = tmp_path_factory.mktemp("filmed") / "run"
    flags = ["--quiet", "--frames", "4", "--max-steps", "3", "--output", str(path)]
    sets = ["sampling.num=2", "logging.sample_every=3", "logging.log_every=1", "logging.checkpoint_every=2"]
    assert main(["train", *CLIPS, *flags, *(part for value in sets for part in ("--set", value))]) == 0
    return path


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GIF of 8 frames of 32×32 in grey, which a palette holds exactly; the working directory is an empty one."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    levels = np.random.default_rng(0).integers(0, 256, (1, 8, 32, 32))
    write_gif(tmp_path / "clip.gif", torch.from_numpy(levels / 127.5 - 1))
    return tmp_path / "clip.gif"


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def size_of(path: Path) -> tuple[int, int, int]:
    """Frames, height and width of a picture."""
    with Image.open(path) as image:
        return getattr(image, "n_frames", 1), image.height, image.width


def test_frames_are_a_shorter_way_to_write_stages(dfm: Dfm, filmed: Path, tmp_path: Path) -> None:
    sets = ["--set", "sampling.num=2", "--set", "logging.log_every=1", "--set", "logging.sample_every=0"]
    stages = ["--stages", "4x8x8,4x16x16", "--max-steps", 2]
    dfm("train", *CLIPS, *stages, *sets, "--output", tmp_path / "run")
    assert [line["loss"] for line in lines(tmp_path / "run")] == [line["loss"] for line in lines(filmed)[:2]]
    made = load(tmp_path / "run", device="cpu").composition
    assert made.config.stages == load(filmed, device="cpu").composition.config.stages == ((4, 8, 8), (4, 16, 16))


def test_sample_grids_in_training_are_sheets_and_play(filmed: Path) -> None:
    assert size_of(filmed / "samples" / "step_00000003.png") == (1, 2 + 2 * 66, 2 + 4 * 66)
    assert size_of(filmed / "samples" / "step_00000003.gif") == (4, 2 + 66, 2 + 2 * 66)


def test_sampling_clips(dfm: Dfm, filmed: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    result = dfm("sample", filmed, *SHORT, "--num", 3, "--previews", "--output", tmp_path / "out")
    stems = ["grid", "0000", "0001", "0002"]
    suffixes = ["", "_stage_1", "_stage_2"]
    expected = {f"{stem}{suffix}{end}" for stem in stems for suffix in suffixes for end in (".png", ".gif", ".mp4")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    assert size_of(tmp_path / "out" / "0001_stage_1.gif") == (4, 160, 160)
    assert size_of(tmp_path / "out" / "0001.gif") == (4, 160, 160)
    assert size_of(tmp_path / "out" / "0001.png") == (1, 2 + 66, 2 + 4 * 66)
    assert read_clip(tmp_path / "out" / "0001.mp4").shape == (3, 4, 16, 16)
    assert "3 of 3 clips" in result.err
    assert result.lines[0].startswith("5 model calls per clip (euler, 5 steps)")
    assert result.lines[1] == f"wrote 36 files; grid: {tmp_path / 'out' / 'grid.png'}"


def test_clips_play_as_fast_as_one_says(dfm: Dfm, filmed: Path, tmp_path: Path) -> None:
    flags = ["--num", 1, "--frame-rate", 4, "--label", "star turning", "--animate", "--json"]
    result = dfm("sample", filmed, *SHORT, *flags, "--output", tmp_path / "out").json
    assert result["clips"] == 1
    assert result["labels"] == [load(filmed, device="cpu").classes.index("star turning")]
    with Image.open(tmp_path / "out" / "0000.gif") as film:
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(film)] == [250] * 4
    with Image.open(tmp_path / "out" / "animation.gif") as film:
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(film)) == 5 * 80 + 4 * 250


def test_clips_do_not_depend_on_their_batch(filmed: Path) -> None:
    model = load(filmed, device="cpu").with_schedule(steps=(2, 2))
    together, one_by_one = model.generate(3, seed=1), model.generate(3, seed=1, batch_size=1)
    assert together.shape == (3, 3, 4, 16, 16)
    assert torch.equal(together, one_by_one)


def test_an_image_is_a_clip_of_one_frame(filmed: Path) -> None:
    model = load(filmed, device="cpu")
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    stages = model.decompose(image)
    assert [tuple(stage.shape) for stage in stages] == [(2, 3, 1, 8, 8), (2, 3, 1, 16, 16)]
    assert torch.allclose(model.recompose(stages)[:, :, 0], image, atol=1e-6)


def test_time_is_decomposed_too(dfm: Dfm, tmp_path: Path) -> None:
    flags = [*CLIPS, "--stages", "2x8x8,4x16x16", "--max-steps", 1, "--set", "logging.sample_every=0"]
    dfm("train", *flags, "--output", tmp_path / "run")
    dfm("sample", tmp_path / "run", *SHORT, "--num", 1, "--previews", "--output", tmp_path / "out")
    assert size_of(tmp_path / "out" / "0000_stage_1.gif") == (2, 160, 160)
    assert size_of(tmp_path / "out" / "0000_stage_2.gif") == (4, 160, 160)


def test_going_on_with_a_run(dfm: Dfm, rejected: Rejected, filmed: Path, tmp_path: Path) -> None:
    assert "frames: the run has 4, got 8" in rejected("train", "--resume", filmed, "--frames", 8, "--stages", "8,16")
    dfm("train", "--resume", filmed, "--frames", 4, "--max-steps", 4, "--output", tmp_path / "on", "--device", "cpu")
    assert [line["step"] for line in lines(tmp_path / "on")] == [1, 2, 3, 4]
    dfm("export", filmed, tmp_path / "exported")
    assert load(tmp_path / "exported", device="cpu").generate(1).shape == (1, 3, 4, 16, 16)


def test_the_plan_of_a_run_of_clips(dfm: Dfm) -> None:
    plan = dfm("train", *CLIPS, "--frames", 6, "--dry-run", "--json").json
    assert plan["stages"][1] == {"resolution": "6x16x16", "shape": "3x6x16x16"}
    assert plan["backbone"]["tokens"] == "6x8x8 = 384"


def test_a_clip_frame_by_frame_is_pywavelets_frame_by_frame(dfm: Dfm, clip: Path) -> None:
    flags = ["--decomposition", "dwt", "--set", "decomposition.options.domain=coefficients", "--frames", 8]
    result = dfm("decompose", clip, *flags, "--stages", "16,32", "--json").json
    low, details = pywt.dwt2(values(clip), "haar", mode="periodization", axes=(1, 2))
    assert [stage["rms"] for stage in result["stages"]] == pytest.approx(
        [rms(low / 2), rms(np.stack(details))], rel=1e-5
    )
    assert [stage["shape"] for stage in result["stages"]] == [[3, 8, 16, 16], [9, 8, 16, 16]]
    assert result["animations"] == ["clip-dwt-stage-1.gif", "clip-dwt-stage-2.gif"]
    assert {path.name for path in Path().iterdir()} == {"clip-dwt.png", *result["animations"]}
    assert [size_of(Path(name)) for name in result["animations"]] == [(8, 160, 2 * 160 + 4)] * 2


def test_stages_in_time(dfm: Dfm, clip: Path) -> None:
    flags = ["--stages", "4x16x16,8x32x32", "--set", "decomposition.options.up=nearest", "--output", "sheet.png"]
    result = dfm("decompose", clip, *flags, "--json").json
    fine = values(clip)
    low = fine.reshape(4, 2, 16, 2, 16, 2, 3).mean((1, 3, 5))
    first, second = result["stages"]
    assert (first["resolution"], first["shape"]) == ([4, 16, 16], [3, 4, 16, 16])
    assert first["rms"] == pytest.approx(rms(low), rel=1e-5)
    assert second["rms"] == pytest.approx(rms(fine - low.repeat(2, 0).repeat(2, 1).repeat(2, 2)), rel=1e-5)
    assert second["energy"] == pytest.approx(second["rms"] ** 2 / np.square(fine).mean(), rel=1e-5)
    assert result["largest_error"] < 1e-5
    assert size_of(Path("sheet-stage-1.gif"))[0] == 4
    with Image.open("sheet-stage-1.gif") as film:
        assert film.info["duration"] == 250  # half as many frames as the clip, for as long


def test_the_first_frames_of_a_film_and_a_picture_as_one_frame(dfm: Dfm, clip: Path) -> None:
    pytest.importorskip("av")
    write_mp4("film.mp4", torch.linspace(-1, 1, 10)[None, :, None, None].expand(1, 10, 40, 60))
    result = dfm("decompose", "film.mp4", "--stages", "4x16x24,4x32x48", "--json").json
    shown = np.linspace(-1, 1, 10)[:4]
    assert result["stages"][0]["rms"] == pytest.approx(rms(shown), abs=0.02)
    write_picture(Path("photo.png"), 0)
    single = dfm("decompose", "photo.png", "--stages", "1x16x16,1x32x32", "--json").json
    assert single["stages"][1]["shape"] == [3, 1, 32, 32]


def values(clip: Path) -> Any:
    """The clip in [-1, 1], (T, H, W, 3)."""
    with Image.open(clip) as file:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)]
    return np.stack(frames).astype(np.float64) / 127.5 - 1


def rms(found: Any) -> float:
    return float(np.sqrt(np.mean(np.square(found))))


def test_latents_of_clips(dfm: Dfm, rejected: Rejected, tmp_path: Path) -> None:
    from dfm_core.interfaces.dataset import DatasetFacts
    from dfm_core.plugins.registry import default_registry

    choice = ["--dataset", "moving_shapes", "--set", "dataset.options.train_clips=6", "--stages", "4x16x16"]
    flags = ["--precision", "float32", "--device", "cpu", "--output", tmp_path / "latents"]
    said = dfm("encode", *choice, *flags)
    assert "6 clips of 4x16x16 pixels" in said.err
    description = json.loads((tmp_path / "latents" / "dataset.json").read_text())
    assert (description["size"], description["latent_shape"]) == ([4, 16, 16], [3, 4, 16, 16])
    facts, registry = DatasetFacts((4, 16, 16), "train", 0), default_registry()
    clips = registry.create("dataset", "moving_shapes", {"train_clips": 6}, facts)
    options = {"path": str(tmp_path / "latents"), "cache": str(tmp_path / "cache")}
    latents = registry.create("dataset", "webdataset", options, facts)
    for index in range(6):
        expected, got = clips.load(index, 0), latents.load(index, 0)
        assert torch.equal(got["latent"], expected["video"])
        assert got["label"] == expected["label"]
    train = [*TINY, "--dataset", "webdataset", "--data", tmp_path / "latents", "--max-steps", 1]
    train += ["--set", f"dataset.options.cache={tmp_path / 'cache'}", "--output", tmp_path / "run"]
    dfm("train", *train, "--backbone", "video_dit", "--frames", 4)
    assert load(tmp_path / "run", device="cpu").generate(1).shape == (1, 3, 4, 16, 16)
    said = rejected("train", *train[:-1], tmp_path / "other", "--backbone", "video_dit", "--frames", 2)
    assert "of clips of 4x16x16 pixels, and the finest stage needs 3x2x16x16; end the stages with 4x16x16" in said


MISTAKES = {
    "network": (["--dataset", "moving_shapes", "--frames", "4"], "backbone 'dit' is for images; for clips: video_dit"),
    "data": (["--backbone", "video_dit", "--frames", "4"], "dataset 'shapes' is for images; for clips: moving_shapes"),
    "no frames": (["--dataset", "moving_shapes"], "dataset 'moving_shapes' is for clips; for images: shapes"),
    "two counts": (["--stages", "2x8x8,4x16x16", "--frames", "8"], "frames is 8, and the stages 2x8x8,4x16x16 end"),
    "none": (["--frames", "0"], "frames: expected greater than or equal to 1, got 0 (from --frames flag)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit(mistake: str, rejected: Rejected, tmp_path: Path) -> None:
    flags, message = MISTAKES[mistake]
    for more in ([], ["--dry-run"]):
        assert message in rejected("train", *TINY, *flags, *more, "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_that_do_not_fit(rejected: Rejected, clip: Path) -> None:
    said = rejected("decompose", clip, "--stages", "16x16x16,16x32x32", code=1)
    assert "cannot read clip" in said
    assert "it has 8 frames" in said
    write_picture(Path("photo.png"), 0)
    said = rejected("decompose", "photo.png", "--stages", "4x16x16,8x32x32")
    assert "photo.png is no clip of 8 frames; for a picture use stages like 48x64,96x128" in said
    Path("film.mp4").write_bytes(b"no film")
    assert "cannot read clip film.mp4" in rejected("decompose", "film.mp4", code=1)
    assert "cannot read clip film.mp4" in rejected("decompose", "film.mp4", "--frames", "4", code=1)
    pytest.importorskip("av")
    write_mp4("film.mp4", torch.zeros(3, 17, 16, 16))
    message = rejected("decompose", "film.mp4")
    assert "film.mp4 is a clip of 17 frames: say how many to take, as in --frames 8" in message
