"""Shares of a batch: how many rows, which settings are refused, what a step costs, and a run with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dfm_core as dfm
from dfm_core.assembly import Assembler
from dfm_core.batch_shares import WHOLE, BatchKind, BatchShares
from dfm_core.composition import DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.errors import CompositionError, ConfigError
from dfm_core.network_facts import expected, training_flops
from dfm_core.plan import TrainingPlan, plan_training
from dfm_core.plugins.registry import default_registry
from dfm_core.runs.start import count_flops
from dfm_core.stage_space import StageStatistics

DATA = DataDescription(3, tuple("abcdefgh"))
SIZE = {"depth": 1, "width": 16, "heads": 2}
PER_BATCH = {"name": "progressive", "options": {"stage_probs": 0.75, "draw": "batch"}}
ALLOCATION: dict[str, Any] = {
    "stages": [8, 16],
    "backbone": {"name": "dit_growing", "options": {**SIZE, "token_grid": 8}},
    "timestep_sampler": PER_BATCH,
    "training": {"batch_size": 8},
    "flow": {"batch_shares": [1.0, 0.25], "statistics_images": 4},
}


def assembler(**values: Any) -> Assembler:
    registry = default_registry()
    return Assembler(resolve_config(ConfigRequest(values={"device": "cpu", **values}), registry).config, registry)


def plan(**changes: Any) -> TrainingPlan:
    return plan_training(assembler(**{**ALLOCATION, **changes}), DATA)


def test_the_share_is_that_of_the_finest_visible_stage_rounded_up() -> None:
    shares = BatchShares((1.0, 0.25, 0.07))
    assert [shares.rows(8, torch.tensor(seen) > 0) for seen in ((1, 0, 0), (1, 1, 0), (0, 1, 0))] == [8, 2, 2]
    assert shares.rows(100, (True, True, True)) == 7  # 0.07 · 100 is a little more than 7
    assert [shares.rows(size, torch.tensor([True, True, False])) for size in (1, 4, 5, 9)] == [1, 1, 2, 3]
    assert BatchShares((1.0, 1e-9)).rows(10, (True, True)) == 1
    assert WHOLE.rows(5, (True,)) == 5


def test_the_batches_that_training_meets() -> None:
    sets = {(True, False): 0.75, (True, True): 0.25, (False, True): 0.0}
    assert WHOLE.kinds(8, sets) == [BatchKind(1.0, 8, sets)]
    first, both = BatchShares((1.0, 0.25)).kinds(8, sets)
    assert first == BatchKind(0.75, 8, {(True, False): 1.0})
    assert both == BatchKind(0.25, 2, {(True, True): 1.0})
    assert expected([first, both], [100, 200]) == 125
    large = 10**18 + 1
    assert expected(WHOLE.kinds(8, sets), [large]) == large


@pytest.mark.parametrize("shares", [[0.5, 0.25], [1.0, 0.0], [1.0, 1.5], [], "1.0,a", 0.5])
def test_no_shares_are_refused_with_the_settings(shares: object) -> None:
    with pytest.raises(ConfigError, match=r"flow\.batch_shares"):
        assembler(**{**ALLOCATION, "flow": {"batch_shares": shares}})


def test_shares_can_be_written_in_one_word() -> None:
    request = ConfigRequest(settings=("flow.batch_shares=1.0,0.25",))
    assert resolve_config(request, default_registry()).config.flow.batch_shares == (1.0, 0.25)


def test_what_does_not_go_with_shares_is_refused_at_assembly() -> None:
    with pytest.raises(CompositionError, match=r"expected 2 shares, one for each number of visible stages, got 3"):
        plan(flow={"batch_shares": [1.0, 0.5, 0.25]})
    refusal = r"needs the same visible stages in all samples .* 'progressive' draws them .*options\.draw=batch"
    with pytest.raises(CompositionError, match=refusal):
        plan(timestep_sampler="progressive")
    with pytest.raises(CompositionError, match="'trajectory' draws them for each sample"):
        dfm.build(**{**ALLOCATION, "timestep_sampler": "trajectory"}, device="cpu")


def test_flops_are_the_mean_over_the_batches() -> None:
    made = assembler(**ALLOCATION)
    ones = StageStatistics((1.0, 1.0), (1.0, 1.0), 1)
    composition = made.compose(DATA, ones, torch.device("cpu"))
    backbone, layout = composition.model.backbone, composition.layout
    first, both = (
        training_flops(backbone, layout, 1, True, {visible: 1.0}) for visible in ((True, False), (True, True))
    )
    planned = plan()
    assert planned.flops == round(0.75 * 8 * first + 0.25 * 2 * both)
    assert count_flops(composition, pytest.fail) == planned.flops
    # A network that does not split its batches costs the same a sample, and so 0.75 · 8 + 0.25 · 2 of them.
    plain = {"name": "dit", "options": SIZE}
    everything = plan(backbone=plain, flow={})
    assert plan(backbone=plain).flops * 8 == pytest.approx(everything.flops * 6.5)
    # In parts of 3, 3 and 2 rows, of which 1 each is kept with both stages: counted as if all were of 3.
    parts = plan(training={"batch_size": 8, "accumulation": 3})
    assert parts.flops == round(0.75 * 3 * first + 0.25 * both) * 8 // 3


def test_memory_is_that_of_the_larger_batch() -> None:
    coarse = plan(timestep_sampler={"name": "progressive", "options": {"stage_probs": 0.999, "draw": "batch"}})
    assert coarse.activation_bytes == plan().activation_bytes
    assert plan(flow={}).activation_bytes > 1.5 * plan().activation_bytes


def test_a_run_with_shares_is_trained_in_parts_and_loaded(tmp_path: Path) -> None:
    training = {"batch_size": 8, "accumulation": 2}
    changes = {**ALLOCATION, "training": training, "logging": {"validation_every": 2, "validation_images": 5}}
    model = dfm.train(**changes, max_steps=4, output=str(tmp_path / "run"), device="cpu")
    assert torch.equal(dfm.load(tmp_path / "run").generate(2, seed=0), model.generate(2, seed=0))
