"""`dfm encode` as users call it, training on what it wrote beside training on the images, and the page about both."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_tools import TINY, Dfm, Rejected, write_picture
from test_documentation import commands, smaller

import dfm_core
from dfm_core import encoding
from dfm_plugins.datasets.webdataset import WebDataset

PAGE = "docs/latents.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny autoencoder of FLUX's family: factor 4, 16 channels."""
    pytest.importorskip("diffusers")
    from tiny_autoencoders import save_tiny

    return save_tiny(tmp_path_factory.mktemp("model") / "vae", "flux")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Twelve pictures in two classes."""
    for index in range(12):
        write_picture(tmp_path / "pets" / ("dog" if index % 2 else "cat") / f"{index:02d}.png", index)
    return tmp_path / "pets"


def with_model(model: Path) -> list[str]:
    return ["--autoencoder", "diffusers", "--set", f"autoencoder.options.path={model}", "--device", "cpu"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


PIXELS = ["--stages", "16", "--device", "cpu", "--shard-size", "5"]


def test_it_says_what_it_does_and_how_to_go_on(dfm: Dfm, pets: Path, tmp_path: Path) -> None:
    (pets / "cat" / "04.png").write_bytes(b"no picture")
    result = dfm("encode", pets, *PIXELS, "--output", tmp_path / "out", "--batch-size", 3)
    assert result.err.splitlines()[1] == "12 images of 16 pixels; on cpu"
    assert result.err.splitlines()[2].startswith("latents 3x16x16 of Pixels-")
    assert "skipped: cannot read image" in result.err
    assert [line.split()[:5] for line in result.err.splitlines() if line.startswith("shard")] == [
        ["shard", f"{shard}/3", images, "of", "12"] for shard, images in enumerate(("5", "10", "12"), start=1)
    ]
    unreadable, latents, hint = result.lines
    assert unreadable == "1 unreadable image skipped"
    assert latents.startswith(f"11 latents in 3 shards lie in {tmp_path / 'out'}; ")
    assert (
        hint == f"train on them with:  dfm train --dataset webdataset --data {tmp_path / 'out'}  (same --autoencoder)"
    )


def test_json_and_quiet(dfm: Dfm, pets: Path, tmp_path: Path) -> None:
    values = dfm("encode", "--data", pets, *PIXELS, "--output", tmp_path / "out", "--json").json
    assert values.pop("seconds") > 0
    assert values.pop("autoencoder").startswith("Pixels-")
    assert values == {"folder": str(tmp_path / "out"), "latents": 12, "shards": 3, "unreadable": 0}
    quiet = dfm("encode", pets, *PIXELS, "--output", tmp_path / "out", "--quiet")
    assert (len(quiet.lines), quiet.err) == (1, "")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process can catch")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_the_same_command_goes_on(
    number: signal.Signals, dfm: Dfm, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []
    add = encoding.add_latent

    def add_or_stop(*arguments: Any) -> None:
        add(*arguments)
        seen.append(arguments)
        if len(seen) == 7:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(encoding, "add_latent", add_or_stop)
    stopped = dfm("encode", pets, *PIXELS, "--output", tmp_path / "out", code=130)
    assert stopped.lines == ["stopped; finished shards stay, and the same command goes on"]
    assert sorted(contents(tmp_path / "out")) == ["encoding.json", "latents-000000.tar"]
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    dfm("encode", pets, *PIXELS, "--output", tmp_path / "out")
    dfm("encode", pets, *PIXELS, "--output", tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_is_refused(rejected: Rejected, dfm: Dfm, pets: Path, tmp_path: Path) -> None:
    assert "expected a folder for the latents: --output FOLDER" in rejected("encode", pets, *PIXELS)
    assert "the data is given twice" in rejected("encode", pets, "--data", pets, *PIXELS, "--output", tmp_path / "a")
    said = rejected("encode", pets, "--autoencoder", "diffusers", *PIXELS, "--output", tmp_path / "a")
    assert "autoencoder.options.path: expected a value, got none" in said
    said = rejected("encode", tmp_path / "none", *PIXELS, "--output", tmp_path / "a", code=1)
    assert f"no folder or file {tmp_path / 'none'}" in said
    assert not (tmp_path / "a").exists()
    assert "holds no latents" in rejected("encode", pets, *PIXELS, "--output", pets)
    dfm("encode", pets, *PIXELS, "--output", tmp_path / "a")
    said = rejected("encode", pets, *PIXELS, "--output", tmp_path / "a", "--stages", 32)
    assert "size: the folder has [16, 16], got [32, 32]" in said


def test_training_refuses_latents_of_another_autoencoder_or_size(
    rejected: Rejected, dfm: Dfm, model: Path, pets: Path, tmp_path: Path
) -> None:
    from tiny_autoencoders import save_tiny

    latents, run = tmp_path / "latents", ["--output", tmp_path / "run"]
    dfm("encode", pets, *with_model(model), "--stages", 16, "--output", latents)
    train = ["train", *TINY, "--dataset", "webdataset", "--data", latents, *run]
    key = json.loads((latents / "dataset.json").read_text())["autoencoder"]
    said = rejected(*train)
    assert f"made by the autoencoder {key}, this run's is Pixels-" in said
    other = save_tiny(tmp_path / "other", "flux", seed=1)
    for flags in ([], ["--dry-run"]):
        said = rejected(*train, *with_model(other), *flags)
        assert f"made by the autoencoder {key}, this run's is AutoencoderKL-" in said
    said = rejected(*train, *with_model(model), "--stages", "8,24")
    assert "latents 16x4x4, of images of 16 pixels, and the finest stage needs 16x6x6; end the stages with 16" in said
    said = rejected(*train, *with_model(model), "--stages", "8,18")
    assert "the autoencoder divides by 4" in said
    (latents / "dataset.json").unlink()
    assert "run the same `dfm encode` again" in rejected(*train, *with_model(model), code=1)


def test_a_trained_model_refuses_an_exchanged_autoencoder(
    rejected: Rejected, dfm: Dfm, model: Path, pets: Path, tmp_path: Path
) -> None:
    from tiny_autoencoders import save_tiny

    vae = Path(shutil.copytree(model, tmp_path / "vae"))
    dfm("train", *TINY, "--data", pets, *with_model(vae), "--max-steps", 1, "--output", tmp_path / "run")
    dfm("sample", tmp_path / "run", "--num", 1, "--device", "cpu")
    save_tiny(vae, "flux", seed=1)
    for command in (["sample", tmp_path / "run"], ["train", "--resume", tmp_path / "run", "--max-steps", 2]):
        said = rejected(*command, "--device", "cpu")
        assert "this model was trained with the autoencoder AutoencoderKL-" in said


class InOrder(WebDataset):
    """Shards whose epochs are in the same order as those of a folder."""

    def shard_lengths(self) -> None:  # type: ignore[override]
        return None


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float16", 1e-3)])
def test_training_on_latents_is_training_on_their_images(
    precision: str, tolerance: float, dfm: Dfm, model: Path, pets: Path, tmp_path: Path
) -> None:
    flags = [*with_model(model), "--stages", 16, "--precision", precision, "--shard-size", 5]
    dfm("encode", pets, *flags, "--output", tmp_path / "latents")

    def train(name: str, **dataset: Any) -> tuple[list[float], dfm_core.Model]:
        trained = dfm_core.train(
            **dataset,
            autoencoder={"name": "diffusers", "options": {"path": str(model)}},
            backbone={"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2}},
            flow={"statistics_images": 12, "standardize": True},
            logging={"log_every": 1, "tensorboard": False, "validation_every": 0},
            training={"learning_rate": 1e-3, "warmup_steps": 0},
            **{"stages": [8, 16], "max_steps": 4, "batch_size": 5, "device": "cpu", "quiet": True},
            output=str(tmp_path / name),
        )
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines], trained

    read = {"name": "webdataset", "options": {"path": str(tmp_path / "latents")}}
    on_latents, first = train("on_latents", dataset=lambda options, facts: InOrder(read_options(read), facts))
    on_images, second = train("on_images", dataset={"name": "folder", "options": {"path": str(pets)}})
    assert on_latents == pytest.approx(on_images, rel=tolerance)
    assert len(on_images) == 4
    assert first.composition.statistics.rms == pytest.approx(second.composition.statistics.rms, rel=tolerance)
    images = [made.generate(2, seed=1) for made in (first, second)]
    assert images[0].shape == (2, 3, 16, 16)
    assert torch.allclose(*images, atol=10 * tolerance)


def read_options(choice: dict[str, Any]) -> Any:
    from dfm_core.plugins.registry import default_registry

    return default_registry().validate_options("dataset", choice["name"], choice["options"])


def test_the_data_set_reads_what_was_encoded(dfm: Dfm, pets: Path, tmp_path: Path) -> None:
    """Without an autoencoder the latents are the images: a round trip through both components."""
    from dfm_core.interfaces.dataset import DatasetFacts

    dfm("encode", pets, *PIXELS, "--flip", "--precision", "float32", "--output", tmp_path / "latents")
    facts = DatasetFacts((16, 16), "train", 0)
    from dfm_plugins.datasets.folder import Folder
    from dfm_plugins.datasets.specs import FolderOptions

    images = Folder(FolderOptions(path=str(pets)), facts)
    latents = WebDataset(read_options({"name": "webdataset", "options": {"path": str(tmp_path / "latents")}}), facts)
    assert (len(latents), latents.classes, latents.channels) == (2 * len(images), images.classes, images.channels)
    for index in range(len(images)):
        expected = images.load(index, 0)
        for copy in (0, 1):
            sample = latents.load(2 * index + copy, 0)
            image = np.asarray(expected["image"])
            assert np.array_equal(np.asarray(sample["latent"]), image[:, :, ::-1] if copy else image)
            assert sample["label"] == expected["label"]


@pytest.mark.slow
def test_processes_share_the_work(dfm: Dfm, pets: Path, tmp_path: Path) -> None:
    dfm("encode", pets, *PIXELS, "--output", tmp_path / "alone")
    command = ["encode", pets, *PIXELS, "--output", tmp_path / "shared", "--nproc", 2]
    python = [sys.executable, "-m", "dfm_core", *map(str, command)]
    done = subprocess.run(python, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.count("12 latents in 3 shards") == 1
    assert contents(tmp_path / "alone") == contents(tmp_path / "shared")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes as Linux shows them")
def test_a_killed_process_leaves_whole_shards_and_the_same_command_goes_on(dfm: Dfm, tmp_path: Path) -> None:
    images = ["--dataset", "shapes", "--set", "dataset.options.train_images=6000"]
    command = ["encode", *images, *PIXELS[:-1], "20", "--output"]
    python = [sys.executable, "-m", "dfm_core", *command, str(tmp_path / "out"), "--nproc", "2"]
    process = subprocess.Popen(python, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not [*tmp_path.glob("out/*.tar")] and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(max(map(int, children)), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: process 1 was ended by SIGKILL" in said
    assert "ended while it encoded" in said
    assert "finished shards stay, and the same command goes on" in said
    assert 0 < len([*tmp_path.glob("out/*.tar")]) < 300
    dfm(*command, tmp_path / "out")
    dfm(*command, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_every_command_of_the_page_runs(
    dfm: Dfm, model: Path, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pets.rename(tmp_path / "photos")
    shutil.copytree(model, tmp_path / "models" / "flux" / "vae")
    ran = []
    for line in commands(PAGE):
        arguments = shlex.split(line.replace("128,256", "8,16").replace("--stages 256", "--stages 16"))
        assert arguments[0] == "dfm"
        dfm(*smaller(arguments[1:]), *([] if arguments[1] == "train" else ["--device", "cpu"]))
        ran.append(arguments[1])
    assert ran == ["train", "encode", "train", "sample", "encode"]
