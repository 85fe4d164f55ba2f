"""AdamW, learning rate, clipping, and optimiser state by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dfm_core.config.settings import TrainingSettings
from dfm_core.errors import CheckpointError
from dfm_core.training.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    trainable_parameters,
)


def settings(**values: object) -> TrainingSettings:
    return TrainingSettings.model_validate(values)


def test_rate_rises_linearly_then_stays() -> None:
    s = settings(learning_rate=2.0, warmup_steps=4)
    assert [learning_rate(s, step) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_cosine_goes_from_peak_to_final_share() -> None:
    s = settings(learning_rate=2.0, warmup_steps=2, max_steps=12, rate_schedule="cosine", final_rate=0.1)
    rates = [learning_rate(s, step) for step in range(2, 13)]
    assert rates[0] == 2.0
    assert rates[5] == pytest.approx(2.0 * 0.55)
    assert rates[-1] == pytest.approx(0.2)
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(s, 99) == pytest.approx(0.2)


def test_cosine_without_steps_after_the_warm_up() -> None:
    s = settings(learning_rate=1.0, warmup_steps=5, max_steps=5, rate_schedule="cosine")
    assert learning_rate(s, 4) == 1.0


def test_first_step_is_adamw_with_decay_on_every_parameter() -> None:
    parameters = [nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64)), nn.Parameter(torch.ones(1).double())]
    s = settings(learning_rate=0.1, weight_decay=0.5, epsilon=1e-8)
    optimizer = build_optimizer(parameters, s)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 3.0)
    optimizer.step()
    # After one step Adam's direction is the sign of the gradient; decoupled decay scales the weights by 1 - lr * wd.
    direction = 3.0 / (math.sqrt(9.0) + 1e-8)
    torch.testing.assert_close(
        parameters[0].detach(), torch.tensor([[0.95 - 0.1 * direction, -1.9 - 0.1 * direction]]).double()
    )
    assert parameters[1].item() == pytest.approx(0.95 - 0.1 * direction)


def test_fused_is_used_on_cpu() -> None:
    assert build_optimizer([nn.Parameter(torch.ones(1))], settings()).defaults["fused"]


def test_without_a_fused_kernel_the_plain_one_serves() -> None:
    optimizer = build_optimizer([nn.Parameter(torch.ones(1, dtype=torch.complex64))], settings())
    assert not optimizer.defaults["fused"]


@pytest.mark.parametrize("largest", [None, 1.0, 100.0])
def test_clipping_returns_the_norm_before(largest: float | None) -> None:
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    norm = clip_gradients(parameters, largest)
    assert float(norm) == pytest.approx(5.0)
    after = math.hypot(float(parameters[0].grad), float(parameters[1].grad))
    assert after == pytest.approx(1.0 if largest == 1.0 else 5.0, rel=1e-5)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.unused = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)


def test_tied_parameters_count_once_and_frozen_ones_not() -> None:
    assert list(trainable_parameters(Tied())) == ["unused", "first.weight", "first.bias", "second.bias"]


def step_once(module: Tied, optimizer: torch.optim.Optimizer) -> None:
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    optimizer.zero_grad()
    module.second(module.first(x)).square().sum().backward()
    set_learning_rate(optimizer, 0.01)
    optimizer.step()


def test_state_travels_by_name() -> None:
    torch.manual_seed(0)
    module, other = Tied(), Tied()
    names = list(trainable_parameters(module))
    optimizer = build_optimizer(list(trainable_parameters(module).values()), settings())
    step_once(module, optimizer)
    tensors = optimizer_tensors(optimizer, names)
    assert set(tensors) == {f"{key}/{n}" for key in ("step", "exp_avg", "exp_avg_sq") for n in names if n != "unused"}

    other.load_state_dict(module.state_dict())
    copy = build_optimizer(list(trainable_parameters(other).values()), settings())
    load_optimizer_tensors(copy, names, {key: tensor.clone() for key, tensor in tensors.items()})
    step_once(module, optimizer)
    step_once(other, copy)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert optimizer_tensors(copy, names).keys() == optimizer_tensors(optimizer, names).keys()


def test_state_of_an_unknown_parameter_is_refused() -> None:
    optimizer = build_optimizer([nn.Parameter(torch.ones(1))], settings())
    with pytest.raises(CheckpointError, match="'ghost' that this model lacks"):
        load_optimizer_tensors(optimizer, ["real"], {"exp_avg/ghost": torch.zeros(1)})
