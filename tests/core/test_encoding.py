"""Latents on disk: what the shards hold, byte for byte again after an interrupt, what is refused; training on them."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import multiprocessing
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dfm_core.assembly import Assembler
from dfm_core.composition import DataDescription, check_autoencoder, data_from_snapshot, snapshot
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.encoding import Encoding, EncodingSettings, Progress, pictures
from dfm_core.errors import CompositionError, DataError, DFMError, StageSizeError, UnreadableSampleError, UsageError
from dfm_core.interfaces.autoencoder import Autoencoder
from dfm_core.interfaces.dataset import Dataset, Sample, Section, ShardDescription, StoredLatents
from dfm_core.latent_shards import LatentShards
from dfm_core.plan import plan_training
from dfm_core.plugins.registry import default_registry
from dfm_core.randomness import BatchRandomness
from dfm_core.stage_space import StageStatistics
from dfm_core.training.distributed import World, joined_world


class Halves(Autoencoder):
    """Halves the sides by averaging; 3 channels, and a fourth for their mean; draws with a deviation of 0.5."""

    scale = 1.0
    draws = False

    @property
    def downsample_factor(self) -> int:
        return 2

    @property
    def channels(self) -> int:
        return 4

    @property
    def stochastic(self) -> bool:
        return self.draws

    def encode(self, images: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(images, 2) * self.scale
        return torch.cat([small, small.mean(1, keepdim=True)], 1)

    def draw(self, images: Tensor, noise: Tensor) -> Tensor:
        return self.encode(images) + 0.5 * noise

    def decode(self, latents: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(latents[:, :3] / self.scale, scale_factor=2)


class Huge(Halves):
    scale = 1e6


class Drawing(Halves):
    draws = True


class Pictures(Dataset):
    """Noise in three classes; those of `broken` cannot be read."""

    length = 10
    broken: frozenset[int] = frozenset()

    @property
    def classes(self) -> tuple[str, ...]:
        return ("a", "b", "c")

    def __len__(self) -> int:
        return self.length if self.facts.split == "train" else 0

    def load(self, index: int, epoch: int) -> Sample:
        if index in self.broken:
            raise UnreadableSampleError(f"cannot read image {index}.png")
        generator = torch.Generator().manual_seed(index)
        return {"image": torch.rand(3, *self.facts.size, generator=generator) * 2 - 1, "label": index % 3}


class PartlyBroken(Pictures):
    broken = frozenset({4})


class Many(Pictures):
    length = 400
    broken = frozenset(range(0, 400, 5))


class Latents(Pictures):
    @property
    def latents(self) -> StoredLatents:
        return StoredLatents("Other-0", (4, 8, 8))


def make_assembler(
    dataset: type[Dataset] = Pictures, autoencoder: type[Autoencoder] = Halves, **values: Any
) -> Assembler:
    training = {"batch_size": values.pop("batch_size", 3)}
    settings = {"device": "cpu", "stages": [8, 16], "training": training, **values}
    config = resolve_config(ConfigRequest(values=settings), default_registry()).config
    return Assembler(config, default_registry(), {"dataset": dataset, "autoencoder": autoencoder})


def encode(
    folder: Path,
    *,
    world: World | None = None,
    warn: Callable[[str], None] | None = None,
    report: Callable[[Progress], None] | None = None,
    settings: EncodingSettings | None = None,
    **choices: Any,
) -> LatentShards:
    settings = settings or EncodingSettings(precision="float32", shard_size=4)
    encoding = Encoding(make_assembler(**choices), settings, torch.device("cpu"))
    return encoding.write(folder, world or World(), warn or pytest.fail, report or (lambda progress: None))


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def stored(folder: Path) -> dict[str, NDArray[Any]]:
    """Every latent of a folder by its key, in order."""
    found = [members(shard) for shard in sorted(folder.glob("*.tar"))]
    return {
        name.removesuffix(".latent.npy"): np.load(io.BytesIO(content))
        for part in found
        for name, content in part.items()
        if name.endswith(".latent.npy")
    }


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def expected(autoencoder: type[Autoencoder] = Halves, flip: bool = False, length: int = 10) -> Tensor:
    assembler = make_assembler(autoencoder=autoencoder)
    dataset, made = assembler.dataset(), assembler.autoencoder(3, torch.device("cpu"))
    images = torch.stack([dataset.load(index, 0)["image"] for index in range(length)])  # type: ignore[misc]
    return made.encode(images.flip(-1) if flip else images)


def test_shards_hold_the_latents_and_labels_of_all_images_in_order(tmp_path: Path) -> None:
    description = encode(tmp_path / "out")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        *("dataset.json", "encoding.json", "latents-000000.tar", "latents-000001.tar", "latents-000002.tar"),
    ]
    assert description.shards == {f"latents-00000{i}.tar": n for i, n in enumerate((4, 4, 2))}
    latents = stored(tmp_path / "out")
    assert list(latents) == [f"{index:08d}" for index in range(10)]
    assert all(latent.dtype == np.float32 for latent in latents.values())
    assert np.array_equal(np.stack([*latents.values()]), expected().numpy())
    assert members(tmp_path / "out" / "latents-000001.tar")["00000005.cls"] == b"2"


def test_the_description_says_what_a_reader_must_know(tmp_path: Path) -> None:
    written = encode(tmp_path / "out", settings=EncodingSettings())
    read = ShardDescription.model_validate_json((tmp_path / "out" / "dataset.json").read_text())
    assert read == ShardDescription.model_validate(written.model_dump())
    assert (read.classes, read.channels, read.size, read.latent_shape) == (("a", "b", "c"), 3, (16, 16), (4, 8, 8))
    key = make_assembler().autoencoder(3, torch.device("cpu")).key
    assert read.autoencoder == key
    values = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (values["precision"], values["unreadable"], values["request"]["key"]) == ("float16", 0, key)


def test_numbers_are_rounded_to_the_stored_type(tmp_path: Path) -> None:
    encode(tmp_path / "out", settings=EncodingSettings(precision="float16"))
    latents = np.stack([*stored(tmp_path / "out").values()])
    assert latents.dtype == np.float16
    assert np.array_equal(latents, expected().half().numpy())


def test_mirrored_copies(tmp_path: Path) -> None:
    description = encode(tmp_path / "out", settings=EncodingSettings(precision="float32", flip=True, shard_size=4))
    assert [*description.shards.values()] == [8, 8, 4]
    latents = stored(tmp_path / "out")
    assert list(latents)[:4] == ["00000000", "00000000-flip", "00000001", "00000001-flip"]
    mirrored = [latent for key, latent in latents.items() if key.endswith("-flip")]
    assert np.array_equal(np.stack(mirrored), expected(flip=True).numpy())
    assert members(tmp_path / "out" / "latents-000000.tar")["00000001-flip.cls"] == b"1"


def test_the_same_bytes_each_time_and_no_trace_of_the_machine(tmp_path: Path) -> None:
    encode(tmp_path / "first")
    encode(tmp_path / "second", batch_size=4)
    assert files(tmp_path / "first") == files(tmp_path / "second")
    with tarfile.open(tmp_path / "first" / "latents-000000.tar") as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in tar} == {
            (0, 0, 0, "", 0o644)
        }


def test_an_interrupted_encoding_goes_on_and_leaves_the_same_bytes(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.images > 4:  # in the midst of the second shard
            raise KeyboardInterrupt

    encode(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path / "out", report=interrupt)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"encoding.json", "latents-000000.tar"}
    first = (tmp_path / "out" / "latents-000000.tar").stat().st_mtime_ns
    seen: list[Progress] = []
    encode(tmp_path / "out", report=seen.append)
    assert seen[-1] == Progress(2, 2, 6, 6)
    assert (tmp_path / "out" / "latents-000000.tar").stat().st_mtime_ns == first
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    encode(tmp_path / "out")
    whole = files(tmp_path / "out")
    (tmp_path / "out" / "latents-000001.tar").rename(tmp_path / "out" / ".latents-000001.tar.123.tmp")
    (tmp_path / "out" / "dataset.json").unlink()
    encode(tmp_path / "out")
    assert files(tmp_path / "out") == whole


def test_a_full_disk_leaves_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 5:  # encoding.json and its folder, the first shard and its folder, the second
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DFMError, match=r"latents-000001.tar: .*No space left.* the same command goes on"):
        encode(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"encoding.json", "latents-000000.tar"}
    monkeypatch.undo()
    encode(tmp_path / "out")
    encode(tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_another_request_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    encode(tmp_path / "out")
    before = files(tmp_path / "out")
    key = make_assembler(autoencoder=Huge).autoencoder(3, torch.device("cpu")).key
    with pytest.raises(UsageError, match=rf"made otherwise.*\nkey: the folder has 'Halves-.*', got '{key}'"):
        encode(tmp_path / "out", autoencoder=Huge)
    with pytest.raises(UsageError, match=r"size: the folder has \[16, 16\], got \[32, 32\]"):
        encode(tmp_path / "out", stages=[8, 32])
    with pytest.raises(UsageError, match=r"precision: the folder has 'float32', got 'float16'"):
        encode(tmp_path / "out", settings=EncodingSettings(shard_size=4))
    (tmp_path / "out" / "encoding.json").write_text("{")
    with pytest.raises(DataError, match="encode again"):
        encode(tmp_path / "out")
    assert {**before, "encoding.json": b"{"} == files(tmp_path / "out")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UsageError, match="exists and holds no latents"):
        encode(tmp_path)
    with pytest.raises(UsageError, match="exists and holds no latents"):
        encode(tmp_path / "photo.jpg")
    (tmp_path / "empty").mkdir()
    encode(tmp_path / "empty")


def test_unreadable_images_are_skipped_counted_and_named(tmp_path: Path) -> None:
    warnings: list[str] = []
    description = encode(tmp_path / "out", dataset=PartlyBroken, warn=warnings.append)
    assert warnings == ["skipped: cannot read image 4.png"]
    assert (description.unreadable, [*description.shards.values()]) == (1, [4, 3, 2])
    assert "00000004" not in stored(tmp_path / "out")
    # A later call counts them by looking into the shards.
    (tmp_path / "out" / "dataset.json").unlink()
    assert encode(tmp_path / "out", dataset=PartlyBroken) == description


def test_too_many_unreadable_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="samples seen so far are unreadable"):
        encode(tmp_path / "out", dataset=Many, warn=lambda message: None)


def test_numbers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DFMError, match=r"sample 0 does not fit into float16: its largest magnitude is \d{6}; use --precision float32"
    ):
        encode(tmp_path / "out", autoencoder=Huge, settings=EncodingSettings())
    assert not [*(tmp_path / "out").glob("*.tar")]
    encode(tmp_path / "wide", autoencoder=Huge)


def test_drawn_latents_depend_on_seed_and_index_only(tmp_path: Path) -> None:
    encode(tmp_path / "first", autoencoder=Drawing)
    encode(tmp_path / "second", autoencoder=Drawing, batch_size=1)
    encode(tmp_path / "third", autoencoder=Drawing, seed=1)
    first, second, third = (np.stack([*stored(tmp_path / name).values()]) for name in ("first", "second", "third"))
    assert np.array_equal(first, second)
    noise = (first - expected().numpy()) / 0.5
    assert abs(noise.std() - 1) < 0.05
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.2
    assert not np.array_equal(first, third)


class SeveralSizes(Pictures):
    def sections(self) -> tuple[Section, ...]:
        return Section(6, self.facts.size), Section(4, (4, 4))


def test_an_image_is_encoded_as_a_clip_of_one_frame() -> None:
    image, clip = torch.zeros(3, 8, 8), torch.zeros(3, 4, 8, 8)
    assert pictures({"image": image}, 0, 2).shape == (3, 8, 8)
    assert pictures({"image": image}, 0, 3).shape == (3, 1, 8, 8)
    assert pictures({"video": clip}, 0, 3).shape == (3, 4, 8, 8)
    with pytest.raises(DataError, match=r"expected samples of 3 dimensions, sample 7 is \(3, 4, 8, 8\)"):
        pictures({"video": clip}, 7, 2)
    with pytest.raises(DataError, match="expected images or clips, sample 7 holds label"):
        pictures({"label": 1}, 7, 2)


def test_what_cannot_be_encoded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds latents already"):
        encode(tmp_path / "out", dataset=Latents)
    with pytest.raises(DataError, match="the validation split of the data set has none"):
        encode(tmp_path / "out", settings=EncodingSettings(split="validation"))
    with pytest.raises(StageSizeError, match="the autoencoder divides by 2"):
        encode(tmp_path / "out", stages=[8, 15])
    with pytest.raises(DataError, match="holds samples of several sizes"):
        encode(tmp_path / "out", dataset=SeveralSizes)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_loading_in_other_processes_changes_nothing(tmp_path: Path) -> None:
    encode(tmp_path / "first", dataset=PartlyBroken, warn=lambda message: None)
    encode(tmp_path / "second", dataset=PartlyBroken, workers=2, warn=lambda message: None)
    first, second = files(tmp_path / "first"), files(tmp_path / "second")
    assert first == second


def encode_in_process(folder: Path, environment: dict[str, str]) -> None:
    with joined_world(torch.device("cpu"), environment) as world:
        os.environ.update(environment)
        encode(folder, world=world)


@pytest.mark.slow
def test_two_processes_share_the_shards(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    spawn, processes = multiprocessing.get_context("spawn"), []
    for rank in ("0", "1"):
        environment = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update(environment)
        processes.append(spawn.Process(target=encode_in_process, args=(tmp_path / "out", environment)))
        processes[-1].start()
        for name in environment:
            del os.environ[name]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    encode(tmp_path / "alone")
    assert files(tmp_path / "out") == files(tmp_path / "alone")


DIT = {"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2}}


def described(shape: tuple[int, ...] = (4, 8, 8), autoencoder: type[Autoencoder] = Halves) -> DataDescription:
    key = make_assembler(autoencoder=autoencoder).autoencoder(3, torch.device("cpu")).key
    return DataDescription(3, ("a", "b", "c"), StoredLatents(key, shape))


def test_the_loss_of_stored_latents_is_that_of_their_images() -> None:
    assembler = make_assembler(backbone=DIT, flow={"standardize": True})
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    label = torch.arange(6) % 3
    latents = assembler.autoencoder(3, torch.device("cpu")).encode(images)
    batches = [{"image": images, "label": label}, {"latent": latents, "label": label}]
    composed = [assembler.compose(described(), None, torch.device("cpu"), [batch]) for batch in batches]
    assert composed[0].statistics == composed[1].statistics
    randomness = BatchRandomness(seed=1, step=0, start=0, stop=6, total=6)
    losses = [made.objective()(batch, randomness).loss for made, batch in zip(composed, batches, strict=True)]
    assert torch.equal(losses[0], losses[1])


def test_drawn_latents_differ_from_step_to_step_and_statistics_are_of_the_mean() -> None:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, drawn = (
        make_assembler(autoencoder=kind, backbone=DIT).compose(
            described(autoencoder=kind), None, torch.device("cpu"), [{"image": images}]
        )
        for kind in (Halves, Drawing)
    )
    assert mean.statistics == drawn.statistics
    first, again, other = (drawn.space.to_stages(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(drawn.space.to_stages(images)[1], mean.space.to_stages(images)[1])


def test_batches_of_neither_images_nor_latents_are_refused() -> None:
    made = make_assembler(backbone=DIT).compose(described(), StageStatistics((1, 1), (1, 1), 1), torch.device("cpu"))
    with pytest.raises(CompositionError, match="expected a batch with images, clips or latents, got label, sound"):
        made.space.batch_to_stages({"sound": torch.zeros(1), "label": torch.zeros(1)})
    with pytest.raises(CompositionError, match=r"expected a batch of images, got clips \(1, 3, 4, 8, 8\)"):
        made.space.batch_to_stages({"video": torch.zeros(1, 3, 4, 8, 8)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (described(autoencoder=Huge), r"made by the autoencoder Huge-\w+, this run's is Halves-\w+; use the"),
        (described((4, 12, 12)), "latents 4x12x12, of images of 24 pixels, and the finest stage needs 4x8x8"),
        (described((4, 4, 8)), "of images of 8x16 pixels"),
    ],
)
def test_latents_that_do_not_fit_are_refused_by_run_and_plan(data: DataDescription, message: str) -> None:
    assembler = make_assembler(backbone=DIT)
    with pytest.raises(CompositionError, match=message):
        assembler.compose(data, None, torch.device("cpu"))
    with pytest.raises(CompositionError, match=message):
        plan_training(assembler, data)


def test_a_model_remembers_its_latents_and_its_autoencoder() -> None:
    statistics = StageStatistics((1.0, 1.0), (1.0, 1.0), 1)
    made = make_assembler(backbone=DIT).compose(described(), statistics, torch.device("cpu"))
    saved = json.loads(json.dumps(snapshot(made, {})))
    assert data_from_snapshot(saved)[0] == described()
    check_autoencoder(saved, made)
    images_only = dataclasses.replace(described(), latents=None)
    other = make_assembler(autoencoder=Huge, backbone=DIT).compose(images_only, statistics, torch.device("cpu"))
    with pytest.raises(CompositionError, match=r"trained with the autoencoder Halves-\w+, which is now Huge-\w+"):
        check_autoencoder(saved, other)
