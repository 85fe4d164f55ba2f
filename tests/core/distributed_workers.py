"""The checks of the distributed tests: what each of two processes does, and what it tells."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from toy_training import CPU, Toy, ToyData, ToyObjective, interrupt_at, lines, make, newest

import dfm_core as dfm
from dfm_core.config.settings import TrainingSettings
from dfm_core.interfaces.backbone import Backbone
from dfm_core.loss_report import LossReport
from dfm_core.objective import FlowObjective
from dfm_core.randomness import BatchRandomness
from dfm_core.training.distributed import World, check_same
from dfm_core.training.learner import Learner
from dfm_core.training.parallel import sharded_like, whole
from dfm_core.training.trainer import Trainer, TrainingResult

PARALLEL = ("ddp", "fsdp")
DTYPES = (torch.float32, torch.float64)
ALONE = World()

# The real network. One process takes two micro-batches for each of the two processes: so it has their noise.


@dataclass
class Case:
    """A network, its objective and a batch of eight."""

    module: Backbone
    objective: FlowObjective
    batch: dict[str, Tensor]

    def learner(self, world: World, accumulation: int, **changes: Any) -> Learner:
        """A learner of a copy of the network."""
        own = copy.deepcopy(self)
        settings = {"warmup_steps": 0, "epsilon": 1e-3, "precision": "float32", "accumulation": accumulation}
        checked = TrainingSettings.model_validate(settings | changes)
        return Learner(own.module, own.objective, checked, CPU, 0, world, own.module.shardable_blocks())

    def part(self, world: World) -> dict[str, Tensor]:
        """What one process has of the batch."""
        own = slice(*world.part(8))
        return {name: value[own] for name, value in self.batch.items()}


def make_case(dtype: torch.dtype, draw: str, backbone: str = "dit", **changes: dict[str, Any]) -> Case:
    """Two stages and two blocks; weights other than those that the network begins with, which are mostly zero.

    changes: of sections of the configuration.
    """
    composition = dfm.build(
        stages=[8, 16],
        backbone={"name": backbone, "options": {"depth": 2, "width": 24, "heads": 2}},
        timestep_sampler={"name": "progressive", "options": {"stage_probs": 0.5, "draw": draw}},
        flow={"statistics_images": 4, **changes.pop("flow", {})},
        device="cpu",
        **changes,
    ).composition
    generator = torch.Generator().manual_seed(0)
    composition.model.to(dtype)
    with torch.no_grad():
        for parameter in composition.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    image = torch.rand(8, 3, 16, 16, generator=generator).to(dtype) * 2 - 1
    batch = {"image": image, "label": torch.arange(8) % len(composition.data.classes)}
    return Case(composition.model.backbone, composition.objective(), batch)


def difference(values: Iterable[Tensor | None], expected: Iterable[Tensor | None]) -> float:
    """Largest difference between tensors, over the largest expected number. Where one lacks a tensor, both must."""
    both = list(zip(values, expected, strict=True))
    assert [a is None for a, _ in both] == [b is None for _, b in both]
    pairs = [(whole(a.detach()), b.detach()) for a, b in both if a is not None and b is not None]
    return float(max((a - b).abs().max() for a, b in pairs) / max(b.abs().max() for _, b in pairs))


def gradients(world: World, _folder: Path) -> dict[tuple[Any, ...], float]:
    """Differences of the gradient of one batch; the name says type, draw, micro-batches and what is special."""
    cases = {(dtype, draw, 1): make_case(dtype, draw) for dtype in DTYPES for draw in ("sample", "batch")}
    cases[torch.float64, "sample", 2] = make_case(torch.float64, "sample")
    cases[torch.float64, "sample", 1, "specialised"] = make_case(
        torch.float64, "sample", specialisation={"groups": "mlp,conditioning"}
    )
    # A network a stage, in parts so small that a process may have no sample of a stage.
    cases[torch.float64, "sample", 4, "experts"] = make_case(torch.float64, "sample", backbone="dit_experts")
    # Step 3 shows the first stage, so half of each part is left out.
    shares = {"batch_shares": (0.5, 1.0)}
    cases[torch.float64, "batch", 1, "shares"] = make_case(torch.float64, "batch", "dit_growing", flow=shares)
    found = {}
    for name, case in cases.items():
        for parallel in PARALLEL:
            together = case.learner(world, name[2], parallel=parallel)
            alone = case.learner(ALONE, 2 * name[2])
            together._accumulate(3, case.part(world))
            alone._accumulate(3, case.batch)
            grads = [[p.grad for p in learner._parameters] for learner in (together, alone)]
            found[parallel, *name] = difference(*grads)
            together.check()
    return found


def three_steps(world: World, _folder: Path) -> dict[tuple[Any, ...], list[float]]:
    """Differences of gradient norms, weights and averaged weights after three steps with clipping, recomputing."""
    found = {}
    for dtype in DTYPES:
        case = make_case(dtype, "sample")
        for parallel in PARALLEL:
            same = {"clip_norm": 0.1, "learning_rate": 1e-2, "checkpointing": "selective", "parallel": parallel}
            learners = (case.learner(world, 1, **same), case.learner(ALONE, 2, **same))
            batches = (case.part(world), case.batch)
            norms = [[x.step(i, b)[1] for i in range(3)] for x, b in zip(learners, batches, strict=True)]
            together, alone = (learner.tensors() for learner in learners)
            if world.is_first:
                groups = [(together[name].values(), alone[name].values()) for name in ("weights", "ema")]
                found[parallel, dtype] = [difference(*norms), *(difference(*group) for group in groups)]
            else:
                assert not any(together.values())
    return found


def changed(world: World, alone_too: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, float]:
    """Difference that settings make to the gradient of one process in eager float32, after an evaluation.

    alone_too: those that the one process has as well.
    """
    found, case = {}, make_case(torch.float32, "sample")
    alone = case.learner(ALONE, 2, **(alone_too or {}))
    alone._accumulate(0, case.batch)
    for parallel in PARALLEL:
        together = case.learner(world, 1, parallel=parallel, **changes)
        with together.evaluating():
            together._objective(case.part(world), BatchRandomness(0, 0, 0, 4, 8))
        together._accumulate(0, case.part(world))
        found[parallel] = difference(*([p.grad for p in learner._parameters] for learner in (together, alone)))
    return found


def without_blocks(world: World, _folder: Path) -> float:
    """Difference of the gradient of a network that names no blocks, sharded as one unit."""
    case = make_case(torch.float64, "sample")
    case.module.shardable_blocks = list  # type: ignore[method-assign]
    together, alone = case.learner(world, 1, parallel="fsdp"), case.learner(ALONE, 2)
    together._accumulate(3, case.part(world))
    alone._accumulate(3, case.batch)
    return difference(*([p.grad for p in learner._parameters] for learner in (together, alone)))


def few_rows(world: World, _folder: Path) -> list[bool]:
    """Whether tensors with 1 and 3 rows are split as FSDP splits parameters, and come back whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    full = [torch.arange(3.0 * rows).reshape(rows, 3) for rows in (1, 3)]
    module = nn.ParameterList(torch.zeros_like(tensor) for tensor in full)
    fully_shard(module, mesh=init_device_mesh("cpu", (world.size,)))
    found = []
    for tensor, parameter in zip(full, module, strict=True):
        split = sharded_like(tensor, parameter)
        assert isinstance(split, DTensor)
        assert isinstance(parameter, DTensor)
        found.append(split.to_local().shape == parameter.to_local().shape and torch.equal(whole(split), tensor))
    return found


def in_bfloat16(world: World, _folder: Path) -> dict[str, float]:
    """Under autocast, against float32."""
    return changed(world, precision="bfloat16")


def both_in_bfloat16(world: World, _folder: Path) -> dict[str, float]:
    """Under autocast, against one process under autocast."""
    return changed(world, {"precision": "bfloat16"}, precision="bfloat16")


def what_blocks_gather(world: World, _folder: Path) -> dict[str, list[torch.dtype]]:
    """Types of a block's weights while it runs and between steps, and of their gradients."""
    case = make_case(torch.float32, "sample")
    learner = case.learner(world, 1, parallel="fsdp", precision="bfloat16")
    block: nn.Module = learner._module.shardable_blocks()[0]  # type: ignore[operator]
    inside: list[torch.dtype] = []
    block.register_forward_pre_hook(lambda *_: inside.extend({p.dtype for p in block.parameters()}))
    learner._accumulate(0, case.part(world))
    stored = list(block.parameters())
    gradients = {p.grad.dtype for p in stored if p.grad is not None}
    return {"inside": inside, "stored": list({p.dtype for p in stored}), "gradients": list(gradients)}


def compiled(world: World, _folder: Path) -> dict[str, float]:
    """Block by block, recomputing activations."""
    return changed(world, compile=True, checkpointing="full")


# Whole runs of a toy, which gives the same with any number of processes.


class Part(ToyData):
    """What one process has of the toy's batches."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.own = slice(*world.part(self.batch_size))

    def batches(self, start_step: int) -> Iterator[dict[str, Tensor]]:
        for batch in super().batches(start_step):
            yield {name: value[self.own] for name, value in batch.items()}


def trainer(world: World, folder: Path, parallel: str, **changes: Any) -> Trainer:
    """A trainer of the toy."""
    module = Toy(dropout=0.0, norm=False)
    same = {"epsilon": 1e-3, "world": world, "data": Part(world), "blocks": [module.first], "parallel": parallel}
    return make(folder, module, **{**same, **changes})


def interrupted(world: World, folder: Path, step: int, parallel: str) -> TrainingResult:
    """Train until the last process alone gets a signal in `step`."""
    made = trainer(world, folder, parallel)
    objective, interrupt = made.objective, interrupt_at(step)

    def signalled(batch: dict[str, Tensor], randomness: BatchRandomness) -> LossReport:
        if world.index == world.size - 1:
            interrupt(batch, dataclasses.replace(randomness, start=0))
        return objective(batch, randomness)

    made._learner._objective = signalled
    return made.train()


def saved(folder: Path) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint."""
    groups = {name: newest(folder).tensors(name) for name in ("weights", "ema", "optimizer")}
    return {f"{name}/{key}": value for name, group in groups.items() for key, value in group.items()}


def equal(first: Path, second: Path) -> bool:
    """Whether the newest checkpoints hold the same bits."""
    one, two = saved(first), saved(second)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def close(first: Path, second: Path) -> bool:
    """Whether the newest checkpoints agree, to 1e-5 of each tensor's largest number."""
    one, two = saved(first), saved(second)
    return one.keys() == two.keys() and all(difference([one[key]], [two[key]]) < 1e-5 for key in one)


def stop_and_go(world: World, folder: Path) -> dict[str, Any]:
    """A signal to one process; then on with as many processes, with one, and with the other sort of sharing."""
    told: dict[str, Any] = {}
    if world.is_first:
        trainer(ALONE, folder / "alone", "ddp").train()
        interrupted(ALONE, folder / "begun alone", 5, "ddp")
    for parallel, other in (PARALLEL, PARALLEL[::-1]):
        undisturbed, parts = folder / f"{parallel} whole", folder / f"{parallel} parts"
        made = trainer(world, undisturbed, parallel, sample_every=3)
        made.on_samples = lambda _step, module=made.module: module(torch.ones(2, 3, 4, 4))
        made.train()
        stopped = interrupted(world, parts, 4, parallel)
        if world.is_first:
            for name in ("one", "same", other):
                shutil.copytree(parts, folder / f"{parallel} to {name}")
            shutil.copytree(folder / "begun alone", folder / f"one to {parallel}")
            trainer(ALONE, folder / f"{parallel} to one", parallel).train(newest(parts))
        world.gather(None)
        for name, then in (("same", parallel), (other, other)):
            trainer(world, folder / f"{parallel} to {name}", then).train(newest(parts))
        trainer(world, folder / f"one to {parallel}", parallel).train(newest(folder / f"one to {parallel}"))
        world.gather(None)
        told[f"{parallel} stopped"] = (stopped.step, stopped.interrupted, stopped.checkpoint.name)
        told[f"{parallel} same bits"] = equal(undisturbed, folder / f"{parallel} to same")
        told[f"{parallel} same log"] = lines(undisturbed) == lines(folder / f"{parallel} to same")
        for name in (f"{parallel} whole", f"{parallel} to one", f"{parallel} to {other}", f"one to {parallel}"):
            told[name] = close(folder / "alone", folder / name)
    return told


def loss_that_breaks_sharded(world: World, folder: Path) -> None:
    """The same with FSDP."""
    loss_that_breaks(world, folder, "fsdp")


def loss_that_breaks(world: World, folder: Path, parallel: str = "ddp") -> None:
    """NaN in the second half of the batch, at step 6: one process has it."""
    made = trainer(world, folder, parallel, checkpoint_every=3)
    first = slice(0, 4) if world.is_first else slice(4, 8)
    made._learner._objective = ToyObjective(
        made.module, break_at=lambda step: math.nan if step == 5 and first.start else 0.0
    )
    made.train()


def different_requests(world: World, _folder: Path) -> None:
    """Processes that were asked for different things."""
    check_same(world, {"seed": 0, "training.batch_size": 8 * (1 + world.index), "torch": "2.13"})


class Skipping(nn.Module):
    """Runs the layer of a stage only where a sample shows it. kernels: sizes of the stages' layers."""

    def __init__(self, kernels: tuple[int, int] = (1, 1), splits_batch: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stages = nn.ModuleList(nn.Conv2d(3, 3, kernel, padding=kernel // 2) for kernel in kernels)
        self.splits_batch = splits_batch

    def forward(self, x: Tensor, stage: Tensor) -> Tensor:
        """x: (B, 3, H, W). stage: (B,)."""
        result = torch.zeros_like(x)
        for index, layer in enumerate(self.stages):
            shown = stage == index
            if bool(shown.any()):
                result = torch.where(shown[:, None, None, None], layer(x), result)
        return result


@dataclass
class SkippingObjective:
    """The first half of the batch shows one stage, the second half the other: each process runs another layer."""

    module: Skipping

    def __call__(self, batch: dict[str, Tensor], randomness: BatchRandomness) -> LossReport:
        stage = torch.arange(randomness.start, randomness.stop) * 2 // randomness.total
        loss = (self.module(batch["image"], stage) - batch["image"]).square().mean()
        return LossReport(loss, torch.ones(2, 1), ("all",))


def skipping_trainer(world: World, folder: Path, parallel: str, **network: Any) -> Trainer:
    """A trainer of a network that breaks the rule of FSDP."""
    module = Skipping(**network)
    changes = {"objective": SkippingObjective(module), "data": Part(world), "blocks": [], "parallel": parallel}
    return make(folder, module, world=world, epsilon=1e-3, checkpoint_every=1, max_steps=3, **changes)


def skipped_layers_replicated(world: World, folder: Path) -> bool | None:
    """Replicated, the gradients are right, as those of one process."""
    skipping_trainer(world, folder / "two", "ddp").train()
    if not world.is_first:
        return None
    skipping_trainer(ALONE, folder / "one", "ddp").train()
    return close(folder / "one", folder / "two")


def skipped_layers_sharded(world: World, folder: Path) -> None:
    """Sharded, the gradients of the two layers are added to each other."""
    skipping_trainer(world, folder, "fsdp").train()


def unequal_layers_sharded(world: World, folder: Path) -> None:
    """Sharded, gradients of layers of different sizes would end the processes."""
    skipping_trainer(world, folder, "fsdp", kernels=(1, 3), splits_batch=True).train()
