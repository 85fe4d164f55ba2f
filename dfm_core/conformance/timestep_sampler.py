"""Laws of timestep samplers. Each takes a sampler built for its facts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dfm_core.conformance.global_randomness import under_two_seeds
from dfm_core.conformance.law import LawBroken, Measurement, at_most, law
from dfm_core.interfaces.timestep_sampler import TimestepDraw, TimestepSampler

BATCH_SIZES = (1, 7, 64)
STANDARD_ERRORS = 5.0
"""Bound of the statistical laws: a sampler that holds them fails once in two million."""
ENOUGH_TO_COMPARE = 30


def _draw(sampler: TimestepSampler, batch_size: int, seed: int = 0) -> TimestepDraw:
    return sampler.sample(batch_size, torch.Generator().manual_seed(seed))


@law("timestep_sampler")
def draw_has_its_declared_form(sampler: TimestepSampler) -> Measurement:
    """t is (B, S) float32, visible and trained are (B, S) bool, all on the CPU."""
    for batch_size in BATCH_SIZES:
        draw = _draw(sampler, batch_size)
        shape = (batch_size, sampler.facts.num_stages)
        forms = {"t": torch.float32, "visible": torch.bool, "trained": torch.bool}
        for name, dtype in forms.items():
            tensor: Tensor = getattr(draw, name)
            if tuple(tensor.shape) != shape or tensor.dtype != dtype or tensor.device.type != "cpu":
                raise LawBroken(
                    f"{name} for a batch of {batch_size}: expected {shape} {dtype} on the CPU, got "
                    f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
                )
    return Measurement()


@law("timestep_sampler")
def timesteps_are_in_range(sampler: TimestepSampler) -> Measurement:
    """t is finite and in [0, 1]."""
    t = _draw(sampler, 4096).t
    outside = torch.maximum(-t, t - 1).nan_to_num(nan=torch.inf).max().item()
    remedy = "0 is noise and 1 is data: clamp it"
    return at_most(max(outside, 0.0), 0.0, f"t leaves [0, 1] by {outside:g} (infinite where it is NaN); {remedy}")


@law("timestep_sampler")
def trained_stages_are_visible(sampler: TimestepSampler) -> Measurement:
    """A stage with a loss is visible, and every sample has one."""
    draw = _draw(sampler, 4096)
    blind = int((draw.trained & ~draw.visible).sum())
    remedy = "take trained & visible"
    at_most(blind, 0, f"{blind} of {draw.trained.numel()} stages are trained and invisible, expected 0; {remedy}")
    idle = int((~draw.trained.any(1)).sum())
    return at_most(
        idle, 0, f"{idle} of {len(draw.trained)} samples train no stage, expected 0: they cost and teach nothing"
    )


@law("timestep_sampler")
def invisible_stages_are_at_zero(sampler: TimestepSampler) -> Measurement:
    """t is 0 where a stage is invisible."""
    draw = _draw(sampler, 4096)
    largest = torch.where(draw.visible, 0.0, draw.t.abs()).max().item()
    return at_most(largest, 0.0, f"an invisible stage has t = {largest:g}, expected 0; mask t by visible")


@law("timestep_sampler")
def the_generator_decides(sampler: TimestepSampler) -> Measurement:
    """The same generator state gives the same draw, another one another; no global random state is read or changed."""
    first, again = under_two_seeds(lambda: _draw(sampler, 64), "drawing")
    if not all(torch.equal(getattr(first, name), getattr(again, name)) for name in ("t", "visible", "trained")):
        raise LawBroken("two draws from the same generator state differ; keep no state and use the generator only")
    other = _draw(sampler, 64, seed=1)
    if torch.equal(first.t, other.t):
        raise LawBroken("draws from two seeds are the same; draw from the generator that is given")
    return Measurement()


@law("timestep_sampler")
def probabilities_add_up_to_one(sampler: TimestepSampler) -> Measurement:
    """`visible_probabilities` has keys of S booleans and non-negative values that sum to 1."""
    probabilities = sampler.visible_probabilities()
    wrong = [visible for visible in probabilities if len(visible) != sampler.facts.num_stages]
    if wrong:
        raise LawBroken(
            f"keys of visible_probabilities(): expected {sampler.facts.num_stages} booleans, got {wrong[0]}"
        )
    error = abs(math.fsum(probabilities.values()) - 1)
    if min(probabilities.values(), default=0.0) < 0:
        raise LawBroken(f"visible_probabilities() is {probabilities}: expected values of at least 0")
    return at_most(
        error, 1e-6, f"visible_probabilities() is {probabilities}: expected values that sum to 1 (off by {error:g})"
    )


@law("timestep_sampler")
def visible_sets_are_as_frequent_as_promised(sampler: TimestepSampler) -> Measurement:
    """Every set of visible stages is drawn about as often as `visible_probabilities` says, and no other."""
    batches, generator = 1500, torch.Generator().manual_seed(0)
    # One sample of each batch: within a batch they need not be independent.
    drawn = [tuple(sampler.sample(3, generator).visible[-1].tolist()) for _ in range(batches)]
    promised = sampler.visible_probabilities()
    worst = 0.0
    for visible in set(drawn) | set(promised):
        probability = promised.get(visible, 0.0)
        share = drawn.count(visible) / batches
        variance = probability * (1 - probability)
        # The second term is for probabilities below 1/batches, which are no longer normal; sure things have no slack.
        tolerance = STANDARD_ERRORS * (math.sqrt(variance / batches) + (variance > 0) / batches)
        if abs(share - probability) > max(tolerance, 1e-9):
            raise LawBroken(
                f"visible stages {list(visible)}: drawn in {share:.4f} of {batches} batches, promised "
                f"{probability:.4f} ± {tolerance:.4f}; make visible_probabilities() and sample() agree",
                Measurement(abs(share - probability) / tolerance if tolerance else math.inf, 1.0),
            )
        worst = max(worst, abs(share - probability) / tolerance if tolerance else 0.0)
    return Measurement(worst, 1.0)


@law("timestep_sampler")
def one_set_a_batch_is_one(sampler: TimestepSampler) -> Measurement:
    """Where `one_set_a_batch` is true, all samples of a batch have the same visible stages."""
    if not sampler.one_set_a_batch:
        return Measurement()
    for seed in range(20):
        visible = _draw(sampler, 64, seed).visible
        sets = len(visible.unique(dim=0))
        if sets > 1:
            raise LawBroken(
                f"one_set_a_batch is true and a batch of 64 has {sets} sets of visible stages, expected 1; draw the "
                "set once for the batch, or leave one_set_a_batch at False"
            )
    return Measurement()


@law("timestep_sampler", requires="earlier_cleaner")
def earlier_stages_are_cleaner(sampler: TimestepSampler) -> Measurement:
    """The mean t of each stage before the last visible one is above that of the last visible one."""
    if bool(sampler.facts.grid.visible.all()):
        return Measurement()  # One stage, or a generation without progression: there is no earlier stage to lead.
    generator = torch.Generator().manual_seed(0)
    draws = [sampler.sample(32, generator) for _ in range(400)]
    t, visible = torch.cat([draw.t for draw in draws]), torch.cat([draw.visible for draw in draws])
    stage_index = torch.arange(t.shape[1])
    last = torch.where(visible, stage_index, -1).amax(1, keepdim=True)
    leads = t - t.gather(1, last)
    smallest = math.inf
    for stage in range(t.shape[1] - 1):
        lead = leads[visible[:, stage] & (last[:, 0] > stage), stage]
        if len(lead) < ENOUGH_TO_COMPARE:
            continue
        error = lead.std().item() / math.sqrt(len(lead))
        smallest = min(smallest, lead.mean().item())
        if lead.mean().item() <= 3 * error:
            raise LawBroken(
                f"stage {stage + 1}: mean t is {lead.mean().item():+.4f} ± {error:.4f} above the last visible stage's, "
                "expected clearly above 0; draw earlier stages cleaner, or do not declare `earlier_cleaner`",
                Measurement(lead.mean().item(), 0.0, at_least=True),
            )
    return Measurement(smallest, 0.0, at_least=True) if smallest < math.inf else Measurement()
