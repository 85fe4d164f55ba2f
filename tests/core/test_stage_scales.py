"""By what stages are divided before noising: each by its own deviation, or all by one number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfm_core.api import train


@pytest.mark.parametrize(("preset", "one_scale"), [("pyramidal-flow", True), ("dfm", False)])
def test_a_run_divides_as_its_path_allows(preset: str, one_scale: bool, tmp_path: Path) -> None:
    model = train(
        quiet=True,
        preset=preset,
        stages=["8", "16"],
        max_steps=1,
        batch_size=4,
        device="cpu",
        output=str(tmp_path / "run"),
        backbone={"options": {"depth": 1, "width": 16, "heads": 1}},
        flow={"standardize": True, "statistics_images": 16},
        logging={"tensorboard": False, "validation_every": 0, "sample_every": 0},
    )
    composition = model.composition
    scales, std = composition.space.scales, composition.statistics.std
    assert scales == ((std[1], std[1]) if one_scale else std)
    assert len(set(scales)) == (1 if one_scale else 2)
    assert composition.model.stage_sigmas.tolist() == pytest.approx(composition.statistics.sigmas(scales))
    assert torch.isfinite(model.generate(2)).all()
