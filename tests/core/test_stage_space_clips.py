"""Clips to stages and back: statistics against NumPy, images as clips of one frame, both in one training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dfm_core as dfm
from dfm_core.errors import CompositionError
from dfm_core.interfaces.autoencoder import Autoencoder, AutoencoderFacts
from dfm_core.interfaces.dataset import Dataset, Sample, Section
from dfm_core.interfaces.decomposition import DecompositionFacts
from dfm_core.plugins import Options
from dfm_core.plugins.registry import default_registry
from dfm_core.stage_space import StageSpace, estimate_statistics

NETWORK: dict[str, Any] = {"name": "video_dit", "options": {"depth": 1, "width": 32, "heads": 2}}


class EveryOther(Autoencoder):
    """The first frame, then the mean of each two; draws with a deviation of 1."""

    temporal_downsample_factor = 2
    stochastic = True
    downsample_factor = 1
    channels = 3

    def encode(self, images: Tensor) -> Tensor:
        first, rest = images[:, :, :1], images[:, :, 1:]
        return torch.cat([first, (rest[:, :, 0::2] + rest[:, :, 1::2]) / 2], 2)

    def draw(self, images: Tensor, noise: Tensor) -> Tensor:
        return self.encode(images) + noise

    def decode(self, latents: Tensor) -> Tensor:
        first, rest = latents[:, :, :1], latents[:, :, 1:]
        return torch.cat([first, rest.repeat_interleave(2, 2)], 2)


def space(autoencoder: type[Autoencoder] | str = "pixels", sizes: Any = ((4, 8, 8), (4, 16, 16))) -> StageSpace:
    registry, facts = default_registry(), AutoencoderFacts(3, True)
    made = registry.create("autoencoder", autoencoder, {}, facts) if isinstance(autoencoder, str) else None
    decomposition = registry.create("decomposition", "laplacian", {"up": "nearest"}, DecompositionFacts(sizes, 3))
    return StageSpace(made or autoencoder(Options(), facts), decomposition, (1.0, 1.0))  # type: ignore[operator]


def clips(count: int = 3, frames: int = 4) -> Tensor:
    return torch.rand(count, 3, frames, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_statistics_are_over_all_frames() -> None:
    made, data = space(), clips()
    statistics = estimate_statistics(
        made.autoencoder, made.decomposition, iter([{"video": data[:2]}, {"video": data[2:]}])
    )
    fine = data.numpy().astype(np.float64)
    low = fine.reshape(3, 3, 4, 8, 2, 8, 2).mean((4, 6))
    details = fine - low.repeat(2, 3).repeat(2, 4)
    assert statistics.rms == pytest.approx([np.sqrt(np.square(x).mean()) for x in (low, details)], rel=1e-5)
    assert statistics.std == pytest.approx([x.std() for x in (low, details)], rel=1e-5)
    assert statistics.num_images == 3


def test_there_and_back() -> None:
    made, data = space(), clips()
    stages = made.batch_to_stages({"video": data, "label": torch.zeros(3)})
    assert [tuple(stage.shape) for stage in stages] == [(3, 3, 4, 8, 8), (3, 3, 4, 16, 16)]
    assert torch.allclose(made.to_images(stages), data, atol=1e-6)
    assert made.to_images(stages[:1]).shape == (3, 3, 4, 8, 8)
    assert all(map(torch.equal, made.batch_to_stages({"latent": data}), stages))


def test_an_image_is_each_frame_on_its_own() -> None:
    made, data = space(), clips()
    whole = made.batch_to_stages({"video": data})
    for frame in range(4):
        alone = made.batch_to_stages({"image": data[:, :, frame]})
        assert all(torch.equal(one[:, :, 0], all_[:, :, frame]) for one, all_ in zip(alone, whole, strict=True))
    with pytest.raises(CompositionError, match="expected a batch with images, clips or latents, got sound"):
        made.batch_to_stages({"sound": data})


def test_an_autoencoder_that_divides_time() -> None:
    made = space(EveryOther, ((3, 8, 8), (3, 16, 16)))
    stages = made.to_stages(clips(frames=5))
    assert [tuple(stage.shape) for stage in stages] == [(3, 3, 3, 8, 8), (3, 3, 3, 16, 16)]
    assert made.to_images(stages).shape == (3, 3, 5, 16, 16)
    drawn = [made.to_stages(clips(frames=5), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][0], drawn[2][0])


class Mixed(Dataset):
    """Eight clips, then eight images."""

    classes = ()

    def __len__(self) -> int:
        return 16

    def sections(self) -> tuple[Section, ...]:
        return Section(8, self.facts.size), Section(8, (1, *self.facts.size[1:]))

    def load(self, index: int, epoch: int) -> Sample:
        frames, height, width = self.facts.size
        values = torch.rand(3, frames, height, width, generator=torch.Generator().manual_seed(index)) * 2 - 1
        return {"video": values} if index < 8 else {"image": values[:, 0]}


def test_images_and_clips_in_one_training(tmp_path: Path) -> None:
    seen: list[int] = []
    original = StageSpace.batch_to_stages

    def batch_to_stages(self: StageSpace, batch: Any, generator: Any = None) -> Any:
        stages = original(self, batch, generator)
        seen.append(stages[-1].shape[2])
        return stages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageSpace, "batch_to_stages", batch_to_stages)
        model = dfm.train(
            dataset=Mixed,
            backbone=NETWORK,
            **{"frames": 4, "stages": [8, 16], "device": "cpu", "quiet": True, "max_steps": 4, "batch_size": 4},
            flow={"statistics_images": 8},
            logging={"log_every": 1, "tensorboard": False, "sample_every": 0, "validation_every": 0},
            output=str(tmp_path / "run"),
        )
    statistics, *steps = seen
    assert statistics == 4
    assert sorted(steps) == [1, 1, 4, 4]
    assert len(list(losses(tmp_path / "run"))) == 4
    assert model.generate(1).shape == (1, 3, 4, 16, 16)


def losses(run: Path) -> Iterator[float]:
    for line in (run / "metrics.jsonl").read_text().splitlines():
        yield json.loads(line)["loss"]
