"""The averaged weights: ramp, closed form, dtype, applying and saving them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dfm_core.training.ema import ExponentialMovingAverage, ema_decay


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.tied = nn.Linear(2, 2, bias=False)
        self.tied.weight = self.first.weight
        self.frozen = nn.Parameter(torch.full((2,), 7.0), requires_grad=False)
        self.norm = nn.BatchNorm1d(2, affine=False)


def test_ramp() -> None:
    assert [ema_decay(0.9999, n) for n in (0, 8)] == [0.1, 0.5]
    assert ema_decay(0.9999, 10**7) == 0.9999
    assert ema_decay(0.0, 5) == 0.0


def test_average_is_the_recurrence() -> None:
    module = nn.Linear(1, 1, bias=False).double()
    ema = ExponentialMovingAverage(module, 0.9)
    expected = module.weight.item()
    for step in range(50):
        with torch.no_grad():
            module.weight.fill_(float(step % 7))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step % 7)
    assert float(ema.state_dict()["weight"]) == pytest.approx(expected, rel=1e-5)


def test_average_of_bfloat16_weights_moves() -> None:
    module = nn.Linear(1, 1, bias=False).bfloat16()
    ema = ExponentialMovingAverage(module, 0.9999)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema.load_state_dict({"weight": torch.zeros(1, 1)})
    for _ in range(10):
        ema.update(10**8)
    average = ema.state_dict()["weight"]
    assert average.dtype == torch.float32
    assert float(average) == pytest.approx(1 - 0.9999**10, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applied_gives_the_weights_back(dtype: torch.dtype) -> None:
    module = nn.Linear(3, 3).to(dtype)
    ema = ExponentialMovingAverage(module, 0.9)
    ema.load_state_dict({"weight": torch.full((3, 3), 2.0), "bias": torch.full((3,), 3.0)})
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(KeyError), ema.applied():  # noqa: PT012
        assert torch.equal(module.weight, torch.full((3, 3), 2.0, dtype=dtype))
        raise KeyError
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_state_dict_is_complete() -> None:
    module = Small()
    ema = ExponentialMovingAverage(module, 0.9)
    module.norm.running_mean.fill_(5.0)  # type: ignore[union-attr]
    with torch.no_grad():
        module.first.weight.zero_()
    state = ema.state_dict()
    assert state.keys() == module.state_dict().keys()
    assert state["first.weight"].abs().sum() > 0
    assert torch.equal(state["first.weight"], state["tied.weight"])
    assert torch.equal(state["frozen"], torch.full((2,), 7.0))
    assert torch.equal(state["norm.running_mean"], torch.full((2,), 5.0))

    other = Small()
    other.load_state_dict(state)
    assert torch.equal(other.tied.weight, state["first.weight"])
    again = ExponentialMovingAverage(other, 0.9)
    again.load_state_dict(state)
    assert torch.equal(again.state_dict()["first.weight"], state["first.weight"])


def test_averages_do_not_alias_the_weights() -> None:
    module = nn.Linear(1, 1)
    ema = ExponentialMovingAverage(module, 0.9)
    before = ema.state_dict()["weight"].clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    assert torch.equal(ema.state_dict()["weight"], before)
