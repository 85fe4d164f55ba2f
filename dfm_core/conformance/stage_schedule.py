"""Laws of stage schedules. Each takes a schedule built for its facts."""

from __future__ import annotations

import torch
from torch import Tensor

from dfm_core.conformance.law import LawBroken, Measurement, at_most, law
from dfm_core.interfaces.stage_schedule import ScheduleGrid, StageSchedule

ROUNDING = 1e-9
"""By so much t may miss a threshold."""


def _stage_of_largest(values: Tensor) -> int:
    """Number (from 1) of the stage, in the last dimension, that has the largest value."""
    return int(values.reshape(-1, values.shape[-1]).amax(0).argmax()) + 1


def _generated(grid: ScheduleGrid) -> int:
    """Number of stages without those that are left out at the end, invisible and at 0 throughout; at least 1."""
    used = (grid.visible.any(0) | (grid.t != 0).any(0)).nonzero()
    return int(used[-1]) + 1 if len(used) else 1


@law("stage_schedule")
def grid_has_its_declared_form(schedule: StageSchedule) -> Measurement:
    """t is (steps+1, S) float64 on the CPU in [0, 1], visible is (steps, S) bool, and there is a step."""
    grid, num_stages = schedule.grid(), schedule.facts.num_stages
    steps = grid.visible.shape[0] if grid.visible.ndim else 0
    forms = {
        "t": (grid.t, (steps + 1, num_stages), torch.float64),
        "visible": (grid.visible, (steps, num_stages), torch.bool),
    }
    for name, (tensor, shape, dtype) in forms.items():
        if tuple(tensor.shape) != shape or tensor.dtype != dtype or tensor.device.type != "cpu" or steps == 0:
            raise LawBroken(
                f"{name}: expected {shape} {dtype} on the CPU with at least one step, got {tuple(tensor.shape)} "
                f"{tensor.dtype} on {tensor.device}; return ScheduleGrid(t, visible) with one column a stage"
            )
    outside = torch.maximum(-grid.t, grid.t - 1).nan_to_num(nan=torch.inf).max().item()
    if outside > 0:
        raise LawBroken(f"t leaves [0, 1] by {outside:g} in stage {_stage_of_largest(abs(grid.t - 0.5))}; clamp it")
    return Measurement(max(outside, 0.0), 0.0)


@law("stage_schedule")
def starts_at_noise(schedule: StageSchedule) -> Measurement:
    """Every stage starts at exactly t = 0."""
    first = schedule.grid().t[0]
    return at_most(
        first.abs().max().item(),
        0.0,
        f"stage {_stage_of_largest(first.abs())} starts at t = {first.max().item():g}, expected exactly 0: generation "
        "starts from pure noise",
    )


@law("stage_schedule")
def ends_at_data(schedule: StageSchedule) -> Measurement:
    """Every stage ends at exactly t = 1; an option may leave the last ones out: never visible, always at 0."""
    grid = schedule.grid()
    chosen = bool(schedule.options.model_dump(exclude_defaults=True))
    missing = (1 - grid.t[-1, : _generated(grid) if chosen else None]).abs()
    return at_most(
        missing.max().item(),
        0.0,
        f"stage {_stage_of_largest(missing)} ends {missing.max().item():g} off t = 1, expected exactly 1: set the last "
        "row, rounding included (an option may leave out the last stages, invisible and at 0 throughout)",
    )


@law("stage_schedule")
def never_goes_back(schedule: StageSchedule) -> Measurement:
    """No stage's t ever decreases."""
    decrease = (-schedule.grid().t.diff(dim=0)).clamp(min=0)
    return at_most(
        decrease.max().item(),
        0.0,
        f"stage {_stage_of_largest(decrease)}: t decreases by {decrease.max().item():g} in one step; expected "
        "non-decreasing columns, since solvers go from noise to data only",
    )


@law("stage_schedule")
def something_moves_in_every_step(schedule: StageSchedule) -> Measurement:
    """In every step the t of some stage changes."""
    idle = (schedule.grid().t.diff(dim=0) == 0).all(1)
    first = int(idle.int().argmax()) + 1
    return at_most(
        int(idle.sum()),
        0,
        f"nothing moves in {int(idle.sum())} of {len(idle)} steps, first in step {first}; leave such steps out: each "
        "costs a call of the network",
    )


@law("stage_schedule")
def invisible_stages_rest(schedule: StageSchedule) -> Measurement:
    """A stage that the network does not see keeps its t."""
    grid = schedule.grid()
    moved = torch.where(grid.visible, 0.0, grid.t.diff(dim=0).abs())
    return at_most(
        moved.max().item(),
        0.0,
        f"stage {_stage_of_largest(moved)} moves by {moved.max().item():g} in a step in which it is invisible; make it "
        "visible there or let it rest",
    )


@law("stage_schedule")
def grid_is_reproducible(schedule: StageSchedule) -> Measurement:
    """Two calls of `grid` return the same values."""
    first = schedule.grid()
    t, visible = first.t.clone(), first.visible.clone()
    second = schedule.grid()
    if t.shape != second.t.shape or not (torch.equal(t, second.t) and torch.equal(visible, second.visible)):
        raise LawBroken("two calls of grid() differ; expected the same values: it may depend on options and facts only")
    return Measurement(0.0, 0.0)


@law("stage_schedule", requires="progressive")
def visible_stages_are_a_prefix(schedule: StageSchedule) -> Measurement:
    """In every step the visible stages are the first k."""
    visible = schedule.grid().visible.int()
    gaps = (visible.diff(dim=1) > 0).any(1) | (visible[:, 0] == 0)
    if gaps.any():
        step = int(gaps.nonzero()[0])
        raise LawBroken(
            f"step {step + 1}: visible stages {visible[step].bool().tolist()}, expected a prefix of the stages; a "
            "finer stage needs the coarser ones, or the schedule is not `progressive`"
        )
    return Measurement(0, 0)


@law("stage_schedule", requires="progressive")
def stages_start_one_after_the_other(schedule: StageSchedule) -> Measurement:
    """The number of visible stages goes 1, 2, … to all that are generated; each new stage moves at once."""
    grid = schedule.grid()
    counts = grid.visible.sum(1)
    phases = torch.unique_consecutive(counts).tolist()
    expected = list(range(1, _generated(grid) + 1))
    if phases != expected:
        raise LawBroken(f"numbers of visible stages by phase: expected {expected}, got {phases}; add one stage a phase")
    for active in expected:
        start = int((counts == active).nonzero()[0])
        if grid.t[start + 1, active - 1] == grid.t[start, active - 1]:
            raise LawBroken(
                f"stage {active} is visible from step {start + 1} on but does not move in it; start it there"
            )
    return Measurement()


@law("stage_schedule", requires="progressive")
def stages_wait_for_the_one_before(schedule: StageSchedule) -> Measurement:
    """A stage starts when the one before has reached its threshold, one of `thresholds()` in (0, 1], to 1e-9."""
    grid, thresholds = schedule.grid(), schedule.thresholds()
    handovers = _generated(grid) - 1
    if thresholds is None or len(thresholds) != handovers or not all(0 < value <= 1 for value in thresholds):
        raise LawBroken(
            f"thresholds(): expected {handovers} in (0, 1], one for each stage but the last generated, got "
            f"{thresholds}; return them, or do not declare `progressive`"
        )
    missing, moves = 0.0, grid.visible & (grid.t.diff(dim=0) > 0)
    for stage, threshold in enumerate(thresholds):
        starts = moves[:, stage + 1].nonzero()
        reached = float(grid.t[int(starts[0]), stage]) if len(starts) else 1.0
        missing = max(missing, threshold - reached)
        what = f"stage {stage + 2} starts when stage {stage + 1} is at t = {reached:g}, expected its threshold"
        at_most(missing, ROUNDING, f"{what} {threshold:g}; let it wait, or return the threshold that it waits for")
    return Measurement(missing, ROUNDING)
