"""Slow proofs: images and moving clips are learned by heart, and the quickstart draws what it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dfm_core as dfm
from dfm_core.assembly import Assembler
from dfm_core.composition import DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.plan import plan_training
from dfm_core.plugins.registry import default_registry
from dfm_core.randomness import BatchRandomness
from dfm_core.training.data import load_batch

ROOT = Path(__file__).parents[1]
MINUTES, UTILISATION = 4, 0.6
"""What the quickstart promises, and the share of the matmul rate that its small steps reach."""
MATMUL_RATE = 174e9
"""FLOPs a second of large float32 matrix products on two quiet cores of an AMD EPYC (as docs/performance.md has them),
measured once with `dfm_core.training.utilisation.matmul_rate`. A test on the machine at hand would time its neighbours.
"""


@pytest.mark.slow
@pytest.mark.parametrize("decomposition", ["laplacian", "dwt", "dct"])
def test_three_hundred_steps_learn_one_batch_by_heart(decomposition: str) -> None:
    model = dfm.build(
        decomposition=decomposition,
        stages=[8, 16],
        device="cpu",
        backbone={"name": "dit", "options": {"depth": 3, "width": 96, "heads": 3}},
        timestep_sampler={"name": "progressive", "options": {"stage_probs": 0.5}},
        flow={"statistics_images": 64, "label_dropout": 0.0},
    )
    composition = model.composition
    assembler = Assembler(composition.config, default_registry())
    # Each image four times, so that a step sees several times of it.
    batch = load_batch(assembler.dataset(), [*range(8)] * 4)
    objective = composition.objective()
    optimizer = torch.optim.AdamW(composition.model.parameters(), lr=4e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    losses = []
    for step in range(300):
        report = objective(batch, BatchRandomness(0, step, 0, 32, 32))
        optimizer.zero_grad()
        report.loss.backward()
        torch.nn.utils.clip_grad_norm_(composition.model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        losses.append(float(report.loss))
    assert sum(losses[-50:]) / 50 < 0.2 * sum(losses[:5]) / 5


@pytest.mark.slow
def test_clips_that_were_learned_by_heart_move(tmp_path: Path) -> None:
    """Four shapes on their way to the right, in 1500 steps."""
    model = dfm.train(
        dataset={"name": "moving_shapes", "options": {"train_clips": 4, "validation_clips": 0}},
        backbone={"name": "video_dit", "options": {"depth": 3, "width": 64, "heads": 2, "token_grid": 4}},
        **{"frames": 4, "stages": [8, 16], "max_steps": 1500, "batch_size": 8, "device": "cpu", "quiet": True},
        flow={"statistics_images": 4, "label_dropout": 0.0},
        training={"learning_rate": 3e-3, "warmup_steps": 20, "rate_schedule": "cosine", "ema_decay": 0.98},
        logging={"tensorboard": False, "sample_every": 0},
        output=str(tmp_path / "run"),
    )
    dataset, clips = model.assembler.dataset(), model.generate(4, seed=3)
    for index in range(4):
        expected = centres(torch.as_tensor(dataset.load(index, 0)["video"]))
        assert expected[-1] - expected[0] > 4
        assert centres(clips[index]) == pytest.approx(expected, abs=0.8)


def centres(clip: Tensor) -> list[float]:
    """Column of the middle of what stands out from a clip's background, of each frame."""
    background = clip.flatten(1).median(1).values[:, None, None, None]
    away = (clip - background).abs().sum(0)
    shape = (away > away.amax((1, 2), keepdim=True) / 2).double()
    columns = torch.arange(shape.shape[2], dtype=torch.float64)
    return ((shape.sum(1) * columns).sum(1) / shape.sum((1, 2))).tolist()


def test_the_quickstart_fits_its_four_minutes() -> None:
    config = resolve_config(ConfigRequest(presets=("quickstart",))).config
    plan = plan_training(Assembler(config, default_registry()), DataDescription(3, tuple("abcdefgh")))
    assert plan.flops * config.training.max_steps <= 60 * MINUTES * UTILISATION * MATMUL_RATE


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_quickstart_draws_what_it_is_asked_for() -> None:
    # One thread: matrices this small gain nothing from a second, and the bits stay those of every other run.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(ROOT / "benchmarks" / "quickstart.py"), "--json"]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    assert numbers["classifier"] >= 0.98, numbers
    assert numbers["agreement"] >= 0.80, numbers
