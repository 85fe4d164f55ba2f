"""Slow proofs: one batch is learned by heart, and the quickstart draws what it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dfm_core as dfm
from dfm_core.assembly import Assembler
from dfm_core.composition import DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.plan import plan_training
from dfm_core.plugins.registry import default_registry
from dfm_core.randomness import BatchRandomness
from dfm_core.training.data import load_batch

ROOT = Path(__file__).parents[1]
QUICKSTART_FLOPS = 25e12
"""Four minutes at 0.6 times the matmul rate of two quiet cores (174 GFLOP/s measured)."""


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


def test_the_quickstart_fits_its_four_minutes() -> None:
    config = resolve_config(ConfigRequest(presets=("quickstart",))).config
    plan = plan_training(Assembler(config, default_registry()), DataDescription(3, tuple("abcdefgh")))
    assert plan.flops * config.training.max_steps <= QUICKSTART_FLOPS


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
