"""Memory and FLOPs of a step by precision and checkpointing, against the tensors that live during a real one."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dfm_core.assembly import Assembler, stage_layout
from dfm_core.composition import DataDescription
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.interfaces.backbone import Conditioning
from dfm_core.plan import TrainingPlan, plan_training
from dfm_core.plugins.registry import default_registry
from dfm_core.training.activations import recompute_activations

DATA = DataDescription(3, tuple("abcd"))
NETWORK = {"name": "video_dit", "options": {"depth": 6, "width": 64, "heads": 4}}
BATCH = 4


class Living(TorchDispatchMode):
    """Most bytes of the tensors that were made inside and alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._sizes:
                storage = tensor.untyped_storage()
                self._sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._sizes.pop, storage._cdata, None)
        self.most = max(self.most, sum(self._sizes.values()))
        return output


def assembler(**training: Any) -> Assembler:
    registry = default_registry()
    values = {"device": "cpu", "stages": [16, 32], "frames": 8, "backbone": NETWORK, "dataset": "moving_shapes"}
    training = {"batch_size": BATCH, **training}
    return Assembler(resolve_config(ConfigRequest(values={**values, "training": training}), registry).config, registry)


def plan(**training: Any) -> TrainingPlan:
    return plan_training(assembler(**training), DATA)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_activations_are_those_of_a_real_step(checkpointing: Any, precision: str) -> None:
    """Above it are gradients and temporaries of single operations: measured 1 to 21%."""
    made = assembler(checkpointing=checkpointing, precision=precision)
    layout = stage_layout(made.decomposition(made.autoencoder(3, torch.device("cpu"))))
    backbone = made.backbone(layout, DATA)
    recompute_activations(backbone.shardable_blocks(), checkpointing)
    noisy = [torch.randn(BATCH, *stage.shape) for stage in layout]
    t, visible, label = torch.rand(BATCH, 2), torch.ones(BATCH, 2, dtype=torch.bool), torch.zeros(BATCH).long()
    with Living() as living:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            velocities = backbone(noisy, t, visible, Conditioning(label))
        torch.stack([velocity.square().mean() for velocity in velocities]).sum().backward()
    planned = plan(checkpointing=checkpointing, precision=precision)
    assert 0.95 < living.most / planned.activation_bytes < 1.3


def test_checkpointing_and_precision_save_memory_and_no_flops() -> None:
    plans = [plan(checkpointing=mode, precision=p) for p in ("float32", "bfloat16") for mode in ("none", "full")]
    plain, full, lower, both = (planned.activation_bytes for planned in plans)
    assert full < plain / 3
    assert lower < 0.7 * plain
    assert both < full
    assert len({(planned.flops, planned.state_bytes) for planned in plans}) == 1


def test_a_device_that_is_not_here_can_be_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = assembler()
    elsewhere = Assembler(made.config.model_copy(update={"device": "cuda"}), made.registry)
    assert plan_training(elsewhere, DATA).activation_bytes == plan(precision="bfloat16").activation_bytes
