"""Activation checkpointing: the same gradients bit for bit and the same names, for more arithmetic and less memory."""

from __future__ import annotations

import pytest
import torch
from distributed_workers import ALONE, make_case
from torch.utils.flop_counter import FlopCounterMode

MODES = ("none", "selective", "full")


@pytest.fixture(scope="module")
def steps() -> dict[str, tuple[list[torch.Tensor], list[str], int]]:
    """Gradients, names of the state, and FLOPs of one batch, by mode."""
    case, found = make_case(torch.float32, "sample"), {}
    for mode in MODES:
        learner = case.learner(ALONE, 1, checkpointing=mode)
        with FlopCounterMode(display=False) as counter:
            learner._accumulate(0, case.batch)
        gradients = [p.grad for p in learner._parameters if p.grad is not None]
        found[mode] = (gradients, list(learner.tensors()["weights"]), counter.get_total_flops())
    return found


@pytest.mark.parametrize("mode", MODES[1:])
def test_gradients_and_names_stay(mode: str, steps: dict[str, tuple[list[torch.Tensor], list[str], int]]) -> None:
    (plain, names, _), (recomputed, same_names, _) = steps["none"], steps[mode]
    assert names == same_names
    assert len(plain) == len(recomputed)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_what_is_computed_again(steps: dict[str, tuple[list[torch.Tensor], list[str], int]]) -> None:
    flops = {mode: steps[mode][2] for mode in MODES}
    assert flops["selective"] == flops["none"]  # matrix products and attention are kept
    assert 1.2 < flops["full"] / flops["none"] < 1.34  # of three passes, the forward one twice, in the blocks
